// The admin console through node-postgres: simple queries, and the extended protocol where a name or values
// are given.
'use strict';
const {Client} = require('pg');

function check(condition, text) {
  if (!condition) throw new Error(text);
}

async function main() {
  const client = new Client();
  await client.connect();
  const help = await client.query('SHOW HELP');
  const commands = help.rows.map(row => row.command).filter(c => c.startsWith('SHOW ') && c !== 'SHOW FDS');
  check(commands.length > 20, `${commands}`);
  for (const command of commands) {
    const simple = await client.query(command);
    const named = await client.query({name: command, text: command});
    check(simple.fields.map(f => f.name).join() === named.fields.map(f => f.name).join(), command);
  }
  const both = await client.query('SHOW VERSION; SHOW LISTS');
  check(both.length === 2 && both[1].rows.length > 10, 'several statements');
  await client.query('SHOW NOTHING').then(
      () => check(false, 'SHOW NOTHING was answered'), error => check(error.code === '42601', error.code));
  await client.query('SHOW POOLS $1', ['x']).then(
      () => check(false, 'a parameter was taken'), error => check(/^(42601|0A000|08P01)$/.test(error.code), error.code));
  check((await client.query('SELECT 1 AS one')).rows[0].one === '1', 'select 1');
  await client.end();
  console.log('ok console');
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
