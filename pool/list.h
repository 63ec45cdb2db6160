#pragma once

#include <cstddef>

#include "conf/check.h"

namespace pool {

// The hook of an object that can be in one list at a time: nothing is allocated to join or leave.
// An object must have left before it dies.
template <class T>
class ListNode {
 public:
  ListNode() = default;
  ListNode(const ListNode&) = delete;
  ListNode& operator=(const ListNode&) = delete;
  ~ListNode() { ENSURE(!linked()); }

  bool linked() const { return next_ != nullptr; }

 private:
  template <class U, ListNode<U> U::*>
  friend class List;
  ListNode* next_ = nullptr;
  ListNode* previous_ = nullptr;
  T* object_ = nullptr;
};

// A doubly linked list through a member of its elements, in order of arrival. It does not own them.
template <class T, ListNode<T> T::*Hook>
class List {
 public:
  List() { end_.next_ = end_.previous_ = &end_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() {
    ENSURE(empty());
    end_.next_ = end_.previous_ = nullptr;
  }

  bool empty() const { return end_.next_ == &end_; }
  std::size_t size() const { return size_; }

  void push_back(T& object) { insert_before(end_, object); }
  void push_front(T& object) { insert_before(*end_.next_, object); }
  // Behind `place`, which is in it; null: in front of all.
  void insert_after(T* place, T& object) {
    insert_before(place == nullptr ? *end_.next_ : *(place->*Hook).next_, object);
  }

  void remove(T& object) {
    ListNode<T>& node = object.*Hook;
    ENSURE(node.linked());
    node.previous_->next_ = node.next_;
    node.next_->previous_ = node.previous_;
    node.next_ = node.previous_ = nullptr;
    --size_;
  }

  T* front() const { return empty() ? nullptr : end_.next_->object_; }
  T* back() const { return empty() ? nullptr : end_.previous_->object_; }
  T* after(const T& object) const {
    const ListNode<T>* next = (object.*Hook).next_;
    return next == &end_ ? nullptr : next->object_;
  }
  T* before(const T& object) const {
    const ListNode<T>* previous = (object.*Hook).previous_;
    return previous == &end_ ? nullptr : previous->object_;
  }

 private:
  void insert_before(ListNode<T>& place, T& object) {
    ListNode<T>& node = object.*Hook;
    ENSURE(!node.linked());
    node.object_ = &object;
    node.next_ = &place;
    node.previous_ = place.previous_;
    place.previous_->next_ = &node;
    place.previous_ = &node;
    ++size_;
  }

  ListNode<T> end_;
  std::size_t size_ = 0;
};

}  // namespace pool
