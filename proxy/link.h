#pragma once

#include <string>

// Which client a server works for. The only place where clients and servers are tied together and parted, and
// where a server's session is made the client's.
namespace proxy {

class Client;
class Server;
class Worker;

// True while the client's next batch must go to the server that it holds, whatever it is.
bool must_stay(const Client& client);

void link(Client& client, Server& server);
void unlink(Client& client, Server& server);

// Brings the server's session settings to the client's. True: done, or sent ahead in `prefix`, and the
// batch may follow at once. False: sent, and the answer must be waited for, because a statement that ran
// in spite of a refused setting would run as somebody else.
bool prepare_session(Worker& worker, Client& client, Server& server, std::string& prefix);

}  // namespace proxy
