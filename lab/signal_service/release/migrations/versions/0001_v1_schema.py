# Copyright (c) 2026, the signal.rollout authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Schema of v1: instruments, ticks, logs and API requests.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and let the application read and write them."""
    role = context.config.attributes["application_role"]
    # No CREATE EXTENSION: that takes rights which the owner of the schema does not have.
    op.execute(
        """
        DO $$ BEGIN
          IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') THEN
            RAISE EXCEPTION 'extension timescaledb is not installed in this database'
              USING HINT = 'as a superuser: CREATE EXTENSION timescaledb';
          END IF;
        END $$
        """
    )
    op.execute(
        """
        CREATE TABLE instruments (
          instrument  text PRIMARY KEY,
          exchange    text NOT NULL,
          underlying  text NOT NULL,
          kind        text NOT NULL CHECK (kind IN ('INDEX', 'OPTION')),
          option_type text CHECK (option_type IN ('CALL', 'PUT')),
          strike      double precision CHECK (strike > 0),
          lot_size    integer NOT NULL CHECK (lot_size > 0),
          base_price  double precision CHECK (base_price > 0),
          volatility  double precision CHECK (volatility > 0),
          skew        double precision,
          curvature   double precision,
          rate        double precision,
          dividend    double precision,
          strike_step double precision CHECK (strike_step > 0),
          CHECK (kind <> 'INDEX' OR num_nulls(base_price, volatility, skew, curvature, rate, dividend, strike_step) = 0),
          CHECK (kind <> 'OPTION' OR num_nulls(option_type, strike) = 0)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE signal_ticks (
          time       timestamptz NOT NULL,
          instrument text NOT NULL,
          price      double precision NOT NULL,
          volume     bigint,
          PRIMARY KEY (instrument, time)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE logs (
          timestamp  timestamptz NOT NULL,
          service    text NOT NULL,
          level      text NOT NULL,
          error_type text,
          message    text NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE api_requests (
          timestamp timestamptz NOT NULL,
          service   text NOT NULL,
          endpoint  text NOT NULL,
          method    text NOT NULL,
          code      integer NOT NULL,
          duration  double precision NOT NULL
        )
        """
    )
    op.execute("COMMENT ON COLUMN api_requests.duration IS 'milliseconds'")
    op.execute("SELECT create_hypertable('signal_ticks', by_range('time', INTERVAL '1 day'))")
    op.execute("SELECT create_hypertable('logs', by_range('timestamp', INTERVAL '1 day'))")
    op.execute("SELECT create_hypertable('api_requests', by_range('timestamp', INTERVAL '1 day'))")
    op.execute(f"GRANT SELECT ON instruments TO {role}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON signal_ticks, logs, api_requests TO {role}")


def downgrade() -> None:
    """Drop everything of v1."""
    op.execute("DROP TABLE api_requests, logs, signal_ticks, instruments")
