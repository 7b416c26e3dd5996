# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sessions of the engine on the lab's PostgreSQL."""

from __future__ import annotations

import pytest
from ansible_collections.signal.rollout.plugins.module_utils import _postgresql
from ansible_collections.signal.rollout.plugins.module_utils._errors import RolloutError

from .database import HOST, PORT, new_database, password, session


def test_a_statement_that_waits_too_long_for_a_table_names_who_holds_it() -> None:
    with new_database("held", setup="create table orders (id int)") as database, session(database, autocommit=False) as holder:
        holder.execute("set application_name = 'night shift'")
        holder.execute("lock table orders in access exclusive mode")
        options = {"login_host": HOST, "login_port": PORT, "login_user": "postgres", "login_password": password(), "login_db": database}
        asked = {**{name: rule.get("default") for name, rule in _postgresql.ARGUMENT_SPEC.items()}, **options}
        own = _postgresql.connect(asked, 1.0)
        try:
            own.rows("set statement_timeout = '300ms'")
            with pytest.raises(RolloutError, match=r"Held meanwhile: orders by process \d+ \(postgres, night shift\) for \d+ s\. Next: wait for the end"):
                own.rows("select pg_relation_size('orders')")
        finally:
            own.close()
