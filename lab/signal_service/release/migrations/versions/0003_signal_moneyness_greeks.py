# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""History of Greeks by moneyness.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create signal_moneyness_greeks, a hypertable of one day per chunk."""
    role = context.config.attributes["application_role"]
    op.execute(
        """
        CREATE TABLE signal_moneyness_greeks (
          time        timestamptz NOT NULL,
          underlying  text NOT NULL,
          moneyness   text NOT NULL,
          option_type text NOT NULL CHECK (option_type IN ('CALL', 'PUT')),
          spot        double precision NOT NULL,
          strike      double precision NOT NULL,
          iv          double precision NOT NULL,
          price       double precision NOT NULL,
          delta       double precision NOT NULL,
          gamma       double precision NOT NULL,
          theta       double precision NOT NULL,
          vega        double precision NOT NULL,
          rho         double precision NOT NULL
        )
        """
    )
    op.execute("SELECT create_hypertable('signal_moneyness_greeks', by_range('time', INTERVAL '1 day'))")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON signal_moneyness_greeks TO {role}")


def downgrade() -> None:
    """Drop the history by moneyness, with its rows."""
    op.execute("DROP TABLE signal_moneyness_greeks")
