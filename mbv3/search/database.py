"""Optuna's storage in a database, with few statements where Optuna asks many."""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState

__all__ = ["WAIT_S", "Database", "Ended"]

WAIT_S = 10  # for a server that does not answer
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a trial: `values` of a complete one, None of a failed one; `attrs` are user attributes."""

    trial_id: int
    values: tuple[float, ...] | None
    attrs: dict[str, Any]


class Database(RDBStorage):
    """Optuna's storage in a database, which also begins and ends many trials in one transaction.

    Optuna asks the database three questions for each parameter of a new trial, some ninety for a network, one after
    the other, and loads each row as an object. Here any number of trials is begun, ended or read by some six
    statements. The rows are those that Optuna writes.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        """As Optuna's; connections are closed, not left to the driver, by one that fails too."""
        try:
            super().__init__(url, engine_kwargs)
        except BaseException:
            if engine := getattr(self, "engine", None):
                engine.dispose()
            raise
        weakref.finalize(self, self.engine.dispose)

    @classmethod
    def open(cls, url: str) -> BaseStorage:
        """Likewise, behind Optuna's cache of ended trials. Raises what the database's driver raises."""
        engine: dict[str, Any] = {}
        if url.startswith("postgresql"):
            engine = {"connect_args": {"connect_timeout": WAIT_S}}
        elif url.startswith("sqlite"):
            engine = {"connect_args": {"timeout": 60}}
        for left in reversed(range(_TRIES)):
            try:
                return get_storage(cls(url, engine))
            except Exception as e:  # of several that open an empty database, one makes the tables
                if not left or not any(word in str(e).lower() for word in ("already exists", "duplicate", "unique")):
                    raise
                time.sleep(0.2)
        raise AssertionError

    def begin(self, study_id: int, trials: Sequence[FrozenTrial]) -> tuple[list[int], int]:
        """New trials that run, in order: their ids, and how many trials there were before them."""
        from sqlalchemy import func, insert, select, text, update

        m = _models()
        trial, now = m.TrialModel, datetime.now()
        with self.scoped_session() as session, session.begin():
            if self.engine.dialect.name == "postgresql":  # only the end of a trial waits for the disk, and so for both
                session.execute(text("SET LOCAL synchronous_commit TO OFF"))
            # the study is held, so that numbers count up; SQLite has no rows to hold and locks at the first write
            if self._sqlite:
                own = m.StudyModel.study_id == study_id
                session.execute(update(m.StudyModel).where(own).values(study_name=m.StudyModel.study_name))
            else:
                m.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            before = session.scalar(select(func.count(trial.trial_id)).where(trial.study_id == study_id)) or 0
            rows = [
                trial(study_id=study_id, number=before + i, state=TrialState.RUNNING, datetime_start=now)
                for i in range(len(trials))
            ]
            session.add_all(rows)
            session.flush()
            ids: list[int] = [row.trial_id for row in rows]
            params, users, systems = [], [], []
            written = {name: distribution_to_json(d) for name, d in trials[0].distributions.items()}
            for trial_id, t in zip(ids, trials, strict=True):
                params += [
                    {"trial_id": trial_id, "param_name": name, "distribution_json": written[name],
                     "param_value": t.distributions[name].to_internal_repr(value)}
                    for name, value in t.params.items()
                ]  # fmt: skip
                users += _attributes(trial_id, t.user_attrs)
                systems += _attributes(trial_id, t.system_attrs)
            for table, values in (
                (m.TrialParamModel.__table__, params),
                (m.TrialUserAttributeModel.__table__, users),
                (m.TrialSystemAttributeModel.__table__, systems),
            ):
                if values:
                    session.execute(insert(table), values)
            return ids, before

    def end(self, trials: Sequence[Ended]) -> list[int]:
        """Ids of those of `trials` that still ran, and have ended now."""
        from sqlalchemy import insert, select, update

        m = _models()
        of = {t.trial_id: t for t in trials}
        trial = m.TrialModel
        with self.scoped_session() as session, session.begin():
            mine = trial.trial_id.in_(list(of))
            if self._sqlite:
                session.execute(update(trial).where(mine).values(state=trial.state))
            ran = select(trial).where(mine, trial.state == TrialState.RUNNING).order_by(trial.trial_id)
            rows = session.scalars(ran.with_for_update()).all()
            ids: list[int] = [row.trial_id for row in rows]
            values = [
                {"trial_id": i, "objective": n, "value": stored, "value_type": kind}
                for i in ids
                for n, v in enumerate(of[i].values or ())
                for stored, kind in [m.TrialValueModel.value_to_stored_repr(v)]
            ]
            users = [attr for i in ids for attr in _attributes(i, of[i].attrs)]
            if values:
                session.execute(insert(m.TrialValueModel.__table__), values)
            if users:
                session.execute(insert(m.TrialUserAttributeModel.__table__), users)
            for i, row in zip(ids, rows, strict=True):
                row.state = TrialState.FAIL if of[i].values is None else TrialState.COMPLETE
                row.datetime_complete = datetime.now()
            return ids

    @property
    def _sqlite(self) -> bool:
        return bool(self.engine.dialect.name == "sqlite")

    def _get_trials(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:  # fmt: skip
        """What Optuna's cache asks for; values between trainings, of which a search here has none, are left out."""
        from sqlalchemy import or_, select

        m = _models()
        trial = m.TrialModel
        with self.scoped_session() as session, session.begin():
            new = trial.trial_id > trial_id_greater_than
            which = or_(new, trial.trial_id.in_(sorted(included_trial_ids))) if included_trial_ids else new
            chosen = select(trial).where(trial.study_id == study_id, which).order_by(trial.trial_id)
            rows = [t for t in session.scalars(chosen) if states is None or t.state in states]
            ids = [t.trial_id for t in rows]
            children: list[dict[int, list[Any]]] = []
            for model in (m.TrialParamModel, m.TrialValueModel, m.TrialUserAttributeModel, m.TrialSystemAttributeModel):
                of: dict[int, list[Any]] = {i: [] for i in ids}
                table = model.__table__
                key = next(iter(table.primary_key.columns))
                for some in (ids[i : i + 500] for i in range(0, len(ids), 500)):
                    for row in session.execute(select(table).where(table.c.trial_id.in_(some)).order_by(key)):
                        of[row.trial_id].append(row)
                children.append(of)
            return [_frozen(t, *(of[t.trial_id] for of in children)) for t in rows]


def _frozen(t: Any, params: list[Any], values: list[Any], users: list[Any], systems: list[Any]) -> FrozenTrial:
    known = {p.param_name: _distribution(p.distribution_json) for p in params}
    found = {v.objective: _models().TrialValueModel.stored_repr_to_value(v.value, v.value_type) for v in values}
    return FrozenTrial(
        number=t.number, state=t.state, value=None, values=[found[i] for i in sorted(found)] if found else None,
        datetime_start=t.datetime_start, datetime_complete=t.datetime_complete,
        params={p.param_name: known[p.param_name].to_external_repr(p.param_value) for p in params},
        distributions=known, user_attrs={a.key: json.loads(a.value_json) for a in users},
        system_attrs={a.key: json.loads(a.value_json) for a in systems}, intermediate_values={}, trial_id=t.trial_id,
    )  # fmt: skip


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _models() -> Any:
    """Optuna's tables."""
    from optuna.storages._rdb import models

    return models


def _attributes(trial_id: int, attrs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
