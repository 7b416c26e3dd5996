# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Subscription events, and which version wrote a request or a log line.

Only additions, all nullable: v1 keeps running on this schema.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create signal_subscriptions and add the version columns."""
    role = context.config.attributes["application_role"]
    op.execute(
        """
        CREATE TABLE signal_subscriptions (
          id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
          session       uuid NOT NULL,
          instrument    text NOT NULL,
          pod           text NOT NULL,
          subscribed_at timestamptz NOT NULL,
          ended_at      timestamptz
        )
        """
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON signal_subscriptions TO {role}")
    op.execute("ALTER TABLE logs ADD COLUMN version text")
    op.execute("ALTER TABLE api_requests ADD COLUMN version text")


def downgrade() -> None:
    """Drop the additions, with what v2 wrote into them."""
    op.execute("ALTER TABLE api_requests DROP COLUMN version")
    op.execute("ALTER TABLE logs DROP COLUMN version")
    op.execute("DROP TABLE signal_subscriptions")
