import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.postgresql.PGConnection;

/**
 * The JDBC driver with its defaults, but prepareThreshold=1: named statements from the first
 * execution on.
 */
public class JdbcClient {
  static final int CLIENTS = number("CLIENTS", 8);
  static final int ROUNDS = number("ROUNDS", 20);
  static final List<String> problems = Collections.synchronizedList(new ArrayList<>());

  static int number(String name, int otherwise) {
    String text = System.getenv(name);
    return text == null ? otherwise : Integer.parseInt(text);
  }

  static void check(boolean condition, String text) {
    if (!condition)
      throw new AssertionError(text);
  }

  static Connection connect() throws SQLException {
    return DriverManager.getConnection("jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE") + "?prepareThreshold=1",
        System.getenv("PGUSER"), System.getenv("PGPASSWORD"));
  }

  static void client(int number) throws Exception {
    int first = number * 50;
    try (Connection connection = connect()) {
      connection.setAutoCommit(false);
      try (PreparedStatement update = connection.prepareStatement(
               "update driver_accounts set balance = balance + ?, owner = ? where id = ?");
           PreparedStatement read =
               connection.prepareStatement("select owner from driver_accounts where id = ?");
           PreparedStatement sum = connection.prepareStatement(
               "select sum(balance) from driver_accounts where id between ? and ?")) {
        for (int n = 0; n < ROUNDS; n++) {
          update.setInt(1, n);
          update.setString(2, "jdbc-" + number);
          update.setInt(3, first + n % 50);
          check(update.executeUpdate() == 1, "update count");
          read.setInt(1, first + n % 50);
          try (ResultSet rows = read.executeQuery()) {
            check(rows.next() && rows.getString(1).equals("jdbc-" + number), "somebody else's row");
          }
          connection.commit();
        }
        sum.setInt(1, first);
        sum.setInt(2, first + 49);
        try (ResultSet rows = sum.executeQuery()) {
          rows.next();
          check(rows.getLong(1) == (long) ROUNDS * (ROUNDS - 1) / 2, "balance " + rows.getLong(1));
        }
        connection.rollback();
      }

      connection.setAutoCommit(true);
      try (PreparedStatement own = connection.prepareStatement("select ?::int + " + number);
           PreparedStatement update =
               connection.prepareStatement("update driver_accounts set balance = ? where id = ?");
           PreparedStatement read =
               connection.prepareStatement("select balance from driver_accounts where id = ?")) {
        for (int n = 0; n < ROUNDS; n++) {
          own.setInt(1, n);
          try (ResultSet rows = own.executeQuery()) {
            rows.next();
            check(rows.getInt(1) == n + number, "somebody else's statement");
          }
          update.setLong(1, n);
          update.setInt(2, first);
          update.executeUpdate();
          read.setInt(1, first);
          try (ResultSet rows = read.executeQuery()) {
            rows.next();
            check(rows.getLong(1) == n, "wrote " + n + ", read " + rows.getLong(1));
          }
        }
      }

      String state = "";
      try (Statement statement = connection.createStatement()) {
        statement.executeUpdate("insert into driver_accounts values (" + first + ", 'x', 0)");
      } catch (SQLException error) {
        state = error.getSQLState();
      }
      check(state.equals("23505"), "expected 23505, got " + state);

      connection.setAutoCommit(false);
      try (Statement statement = connection.createStatement()) {
        statement.setFetchSize(20); // a portal with a row limit
        long sum = 0;
        try (ResultSet rows = statement.executeQuery("select generate_series(1, 250)")) {
          while (rows.next()) sum += rows.getInt(1);
        }
        check(sum == 250 * 251 / 2, "cursor");
        statement.executeUpdate("create temp table loaded (a int, b text) on commit drop");
        StringBuilder data = new StringBuilder();
        for (int n = 0; n < 500; n++) data.append(n).append("\trow\n");
        connection.unwrap(PGConnection.class)
            .getCopyAPI()
            .copyIn("copy loaded from stdin", new StringReader(data.toString()));
      }
      try (PreparedStatement batch =
               connection.prepareStatement("insert into loaded values (?, ?)")) {
        for (int n = 0; n < 20; n++) {
          batch.setInt(1, n);
          batch.setString(2, "more");
          batch.addBatch();
        }
        check(batch.executeBatch().length == 20, "batch");
      }
      try (Statement statement = connection.createStatement();
           ResultSet rows = statement.executeQuery("select count(*) from loaded")) {
        rows.next();
        check(rows.getInt(1) == 520, "copy");
      }
      connection.commit();

      connection.setReadOnly(true); // BEGIN READ ONLY: a replica may serve it
      try (Statement statement = connection.createStatement();
           ResultSet rows =
               statement.executeQuery("select balance from driver_accounts where id = " + first)) {
        rows.next();
        check(rows.getLong(1) == ROUNDS - 1, "read only");
      }
      connection.commit();
      connection.setReadOnly(false);
      connection.setAutoCommit(true);

      try (Statement statement = connection.createStatement()) {
        statement.setQueryTimeout(1); // the driver sends a cancel
        statement.executeQuery("select pg_sleep(30)");
        check(false, "no timeout");
      } catch (SQLException error) {
        check("57014".equals(error.getSQLState()), "expected 57014, got " + error.getSQLState());
      }
      try (Statement statement = connection.createStatement();
           ResultSet rows = statement.executeQuery("select 1")) {
        check(rows.next() && rows.getInt(1) == 1, "after the cancel");
      }
    }
  }

  public static void main(String[] arguments) throws Exception {
    List<Thread> threads = new ArrayList<>();
    for (int i = 0; i < CLIENTS; i++) {
      int number = i;
      threads.add(new Thread(() -> {
        try {
          client(number);
        } catch (Throwable error) {
          problems.add("client " + number + ": " + error);
        }
      }));
    }
    for (Thread thread : threads) thread.start();
    for (Thread thread : threads) thread.join();
    if (!problems.isEmpty()) {
      System.err.println(String.join("\n", problems));
      System.exit(1);
    }
    System.out.println("ok pgjdbc " + org.postgresql.util.DriverInfo.DRIVER_VERSION
        + " clients=" + CLIENTS + " rounds=" + ROUNDS);
  }
}
