"""Duties as rows in Postgres: who holds each, and until when by the database's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batch.queue.duties.duty_store import front_of, presence_of
from batch.queue.duties.guarded_store import DutyLost
from batch.queue.full_text.search_tables import Statements
from batch.queue.postgres.database import PostgresDatabase

# Rows of `service` under no front's name. One that was given up says so with the time 0, and who had it last.
_HOLD = """
with wanted as (select unnest(?::text[]) as name),
  before as (
    select s.name, s.value::json ->> 'front' as front, coalesce((s.value::json ->> 'renewed')::boolean, true) as renewed
      from service s join wanted w on w.name = s.name where s.front = ''),
  held as (
    insert into service as s (front, name, value)
      select '', name, json_build_object('front', ?::text, 'until', unix_now() + ?::double precision, 'renewed', false)::text
      from wanted order by name
    on conflict (front, name) do update set value = (excluded.value::jsonb || jsonb_build_object('renewed',
        (s.value::json ->> 'front') = (excluded.value::json ->> 'front')
        and (coalesce((s.value::json ->> 'renewed')::boolean, true)
          or (s.value::json ->> 'until')::double precision > 0)))::text
      where (s.value::json ->> 'front') = ?::text or (s.value::json ->> 'until')::double precision = 0
        or ((s.value::json ->> 'until')::double precision < unix_now()
          and clock_timestamp() > pg_postmaster_start_time() + make_interval(secs => ?))
    returning s.name)
select h.name, b.front, b.renewed from held h left join before b on b.name = h.name"""
"""After a restart of the database nobody could renew anything: all holders get their time once more. A front that had a duty
but never renewed it may have died, or failed, before it took the work up: it is not told that it was the last to do it."""
_RELEASE = (
    "update service set value = (value::jsonb || jsonb_build_object('until', 0))::text "
    "where front = '' and name = any(?) and (value::json ->> 'front') = ?"
)


class PostgresDuties(PostgresDatabase):
    """The DutyStore Protocol."""

    def hold(self, duties: Sequence[str]) -> dict[str, bool]:
        """Those of the duties that this front has, for `lease_s` from now on, and of each whether it was the last to have it
        before, too."""
        with self._begun(durable=False) as transaction:
            rows = transaction.execute(_HOLD, (list(duties), self._front, self.lease_s, self._front, self.lease_s)).fetchall()
        return {name: before == self._front and renewed for name, before, renewed in rows}

    def release(self, duties: Sequence[str]) -> None:
        """Another front may have them at once."""
        with self._begun(durable=False) as transaction:
            transaction.execute(_RELEASE, (list(duties), self._front))

    def confirm(self, transaction: Statements, duty: str) -> None:
        """Let a transaction stand only if this front has a duty until it ends. Raises DutyLost."""
        row = transaction.execute(
            "select 1 from service where front = '' and name = ? and (value::json ->> 'front') = ? for share",
            (duty, self._front),
        ).fetchone()
        if row is None:
            raise DutyLost()

    def silent_fronts(self, silence_s: float = 0.0) -> list[str]:
        """Other fronts that were stopped, or whose presence ended `silence_s` seconds ago or earlier."""
        rows = self.read(
            "select name from service where front = '' and name like ? and name <> ? "
            "and (value::json ->> 'until')::double precision < unix_now() - ?::double precision",
            (presence_of("%"), presence_of(self._front), silence_s),
        )
        return [front_of(row[0]) for row in rows]

    def forget_fronts(self, fronts: Iterable[str]) -> None:
        """Nothing of these fronts is left to look after, unless they came back."""
        with self._begun(durable=False) as transaction:
            transaction.execute(
                "delete from service where front = '' and name = any(?) "
                "and (value::json ->> 'until')::double precision < unix_now()",
                ([presence_of(front) for front in fronts],),
            )
