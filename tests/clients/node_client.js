// node-postgres with its defaults: unnamed statements for parameters, named ones where a name is
// given.
'use strict';
const {Client, Pool} = require('pg');

const clients = Number(process.env.CLIENTS || 8);
const rounds = Number(process.env.ROUNDS || 20);

function check(condition, text) {
  if (!condition) throw new Error(text);
}

async function one(number) {
  const first = number * 50;
  const client = new Client();
  await client.connect();
  for (let n = 0; n < rounds; n++) {
    await client.query('begin');
    await client.query(
        'update driver_accounts set balance = balance + $1, owner = $2 where id = $3',
        [n, `node-${number}`, first + n % 50]);
    const row = await client.query({
      name: 'owner of',
      text: 'select owner from driver_accounts where id = $1',
      values: [first + n % 50]
    });
    check(row.rows[0].owner === `node-${number}`, 'somebody else\'s row');
    await client.query('commit');
  }
  const total = await client.query(
      'select sum(balance)::int as total from driver_accounts where id between $1 and $2',
      [first, first + 49]);
  check(total.rows[0].total === rounds * (rounds - 1) / 2, `balance ${total.rows[0].total}`);

  for (let n = 0; n < rounds; n++) {
    // One name, another text in every client.
    const own =
        await client.query({name: 'own', text: `select $1::int + ${number} as sum`, values: [n]});
    check(own.rows[0].sum === n + number, 'somebody else\'s statement');
    await client.query('update driver_accounts set balance = $1 where id = $2', [n, first]);
    const read = await client.query({
      name: 'balance of',
      text: 'select balance::int from driver_accounts where id = $1',
      values: [first]
    });
    check(read.rows[0].balance === n, `wrote ${n}, read ${read.rows[0].balance}`);
  }

  let code = '';
  try {
    await client.query('insert into driver_accounts values ($1, $2, 0)', [first, 'x']);
  } catch (error) {
    code = error.code;
  }
  check(code === '23505', `expected 23505, got ${code}`);
  code = '';
  await client.query('begin');
  try {
    await client.query('select 1/0');
  } catch (error) {
    code = error.code;
  }
  check(code === '22012', `expected 22012, got ${code}`);
  await client.query('rollback');

  // Queued by the driver, answered in order.
  const answers = await Promise.all(
      Array.from({length: 20}, (_, n) => client.query('select $1::int as n', [n])));
  check(answers.every((answer, n) => answer.rows[0].n === n), 'order');
  const several = await client.query('select 1 as a; select 2 as a');
  check(several[1].rows[0].a === 2, 'several statements');
  await client.end();
}

async function pooled() {
  const pool = new Pool({max: 4});
  await Promise.all(Array.from({length: rounds}, async (_, n) => {
    const answer = await pool.query('select $1::int as n', [n]);
    check(answer.rows[0].n === n, 'pool');
  }));
  await pool.end();
}

Promise.allSettled([...Array.from({length: clients}, (_, number) => one(number)), pooled()])
    .then((results) => {
      const problems = results.flatMap(
          (r, n) => r.status === 'rejected' ? [`client ${n}: ${r.reason.stack}`] : []);
      if (problems.length > 0) {
        console.error(problems.join('\n'));
        process.exit(1);
      }
      console.log(`ok node-postgres ${require('pg/package.json').version} clients=${
          clients} rounds=${rounds}`);
    });
