-- Indexes of v2. May be run any number of times, by the owner of the schema.
-- On a hypertable CREATE INDEX makes one index per chunk and on every later chunk; CONCURRENTLY is refused there.
-- The tables of v2 are new and small. Those of v1 are in use: lock_timeout makes this file fail, to be run again,
-- rather than hold up writers behind a long wait.
SET lock_timeout = '5s';

CREATE INDEX IF NOT EXISTS signal_greeks_instrument_time_idx
  ON signal_greeks (instrument, time DESC);
CREATE INDEX IF NOT EXISTS signal_moneyness_greeks_underlying_time_idx
  ON signal_moneyness_greeks (underlying, moneyness, option_type, time DESC);
CREATE INDEX IF NOT EXISTS signal_subscriptions_instrument_idx
  ON signal_subscriptions (instrument, subscribed_at DESC);
CREATE INDEX IF NOT EXISTS api_requests_service_endpoint_timestamp_idx
  ON api_requests (service, endpoint, timestamp DESC);
CREATE INDEX IF NOT EXISTS logs_service_level_timestamp_idx
  ON logs (service, level, timestamp DESC);

RESET lock_timeout;
