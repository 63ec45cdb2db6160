import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;

/**
 * The admin console through the JDBC driver with its defaults: it sets parameters when it connects, and asks
 * for binary results once it has prepared a statement.
 */
public class ConsoleClient {
  static void check(boolean condition, String text) {
    if (!condition)
      throw new AssertionError(text);
  }

  public static void main(String[] arguments) throws Exception {
    String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
        + System.getenv("PGDATABASE") + "?prepareThreshold=1";
    try (Connection connection =
             DriverManager.getConnection(url, System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
      check(connection.isValid(5), "not valid");
      check(connection.getTransactionIsolation() == Connection.TRANSACTION_READ_COMMITTED, "isolation");
      List<String> commands = new ArrayList<>();
      try (Statement statement = connection.createStatement();
           ResultSet help = statement.executeQuery("SHOW HELP")) {
        while (help.next()) {
          String command = help.getString("command");
          if (command.startsWith("SHOW ") && !command.equals("SHOW FDS"))
            commands.add(command);
        }
      }
      check(commands.size() > 20, commands.toString());
      for (String command : commands)
        try (var statement = connection.prepareStatement(command)) {
          for (int i = 0; i < 3; i++)
            statement.executeQuery().close();
        }
      try (var statement = connection.prepareStatement("SHOW LISTS")) {
        for (int i = 0; i < 3; i++) {
          boolean seen = false;
          try (ResultSet lists = statement.executeQuery()) {
            while (lists.next())
              seen |= lists.getString("list").equals("workers") && lists.getLong("items") == 2;
          }
          check(seen, "workers");
        }
      }
      connection.setAutoCommit(false);
      try (Statement statement = connection.createStatement()) {
        statement.setFetchSize(2);
        int rows = 0;
        try (ResultSet lists = statement.executeQuery("SHOW LISTS")) {
          while (lists.next())
            rows++;
        }
        check(rows > 10, rows + " rows in pieces of two");
        statement.executeQuery("SHOW NOTHING");
        check(false, "SHOW NOTHING was answered");
      } catch (SQLException error) {
        check("42601".equals(error.getSQLState()), error.toString());
      }
      connection.rollback();
      try (Statement statement = connection.createStatement();
           ResultSet version = statement.executeQuery("SHOW VERSION")) {
        check(version.next() && version.getString(1).startsWith("pgsluice"), "version");
      }
      connection.commit();
    }
    System.out.println("ok console");
  }
}
