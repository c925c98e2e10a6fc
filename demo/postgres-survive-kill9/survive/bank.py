"""The workload's tables, and the one question that checks them all at one instant.

Money moves between accounts; each transfer is a row with an id of its own. So the balances always
add up to what was there at first, every balance follows from the transfers, and a lost, torn or
invented commit shows in at least one of the three.
"""

from __future__ import annotations

from dataclasses import dataclass

from survive.psql import query
from survive.settings import CHECK_SECONDS_MAX, DemoError

ACCOUNTS = 1000
BALANCE = 1000

SCHEMA = f"""
BEGIN;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE TABLE IF NOT EXISTS accounts (id integer PRIMARY KEY, balance bigint NOT NULL);
INSERT INTO accounts SELECT n, {BALANCE} FROM generate_series(1, {ACCOUNTS}) n
    ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS transfers (
    id bigint PRIMARY KEY,
    worker integer NOT NULL,
    source integer NOT NULL REFERENCES accounts,
    target integer NOT NULL REFERENCES accounts,
    amount bigint NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS transfers_accounts ON transfers (source, target);
COMMIT;
"""

STATE = f"""
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT 'total', coalesce(sum(balance), 0) FROM accounts;
SELECT 'wrong', count(*) FROM accounts
    LEFT JOIN (SELECT source AS id, sum(amount) AS gone FROM transfers GROUP BY 1) s USING (id)
    LEFT JOIN (SELECT target AS id, sum(amount) AS come FROM transfers GROUP BY 1) t USING (id)
    WHERE balance <> {BALANCE} - coalesce(gone, 0) + coalesce(come, 0);
SELECT 'ids', coalesce(string_agg(id::text, ','), '') FROM transfers;
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class State:
    """What the tables hold at one instant."""

    ids: frozenset[int]  # of the transfers
    total: int  # of all balances
    wrong: int  # accounts whose balance does not follow from the transfers

    @property
    def sums_equal(self) -> bool:
        """Whether no money was made or lost, on the whole and on each account."""
        return self.total == ACCOUNTS * BALANCE and self.wrong == 0


def transfer(id_: int, worker: int, source: int, target: int, amount: int) -> str:
    """The transaction of one transfer; accounts are locked in order, so that none deadlocks."""
    changes = sorted([(source, -amount), (target, amount)])
    updates = " ".join(
        f"UPDATE accounts SET balance = balance + {change} WHERE id = {account};"
        for account, change in changes
    )
    row = f"({id_}, {worker}, {source}, {target}, {amount})"
    insert = f"INSERT INTO transfers (id, worker, source, target, amount) VALUES {row};"
    return f"BEGIN; {insert} {updates} COMMIT;"


def read_state(container: str) -> State:
    """Reads all of it in one transaction; raises DemoError when the answer is not as asked."""
    parts = dict(
        line.split("|", 1) for line in query(container, STATE, CHECK_SECONDS_MAX) if "|" in line
    )
    try:
        ids = frozenset(int(word) for word in parts["ids"].split(",") if word)
        return State(ids=ids, total=int(parts["total"]), wrong=int(parts["wrong"]))
    except (KeyError, ValueError) as error:
        raise DemoError(f"the tables can't be read: {error}") from None
