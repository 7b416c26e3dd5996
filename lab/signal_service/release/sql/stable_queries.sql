-- What v1 sends while v2's schema is already there, with values in place of parameters. A rehearsal runs each of them on a migrated copy, in a
-- transaction that is rolled back: v1 must go on until the last request has moved to v2.
SELECT string_agg(name, ', ' ORDER BY name)
  FROM unnest(ARRAY['instruments', 'signal_ticks', 'logs', 'api_requests']) AS wanted(name) WHERE to_regclass('public.' || name) IS NULL;
SELECT instrument, exchange, underlying, kind, base_price, volatility, skew, curvature, rate, dividend, strike_step FROM instruments ORDER BY instrument;
SELECT time_bucket('5 minutes'::interval, time) AS bucket, last(price, time) AS price FROM signal_ticks
  WHERE instrument = 'NSE@NIFTY@SPOT' AND time >= now() - interval '1 day' AND time < now() GROUP BY bucket ORDER BY bucket LIMIT 1000;
INSERT INTO signal_ticks (time, instrument, price)
  SELECT * FROM unnest(ARRAY[now()], ARRAY['NSE@NIFTY@SPOT'], ARRAY[21500.0::double precision]) ON CONFLICT DO NOTHING;
INSERT INTO logs (timestamp, service, level, error_type, message)
  SELECT * FROM unnest(ARRAY[now()], ARRAY['signal-service'], ARRAY['ERROR'], ARRAY['rehearsal'], ARRAY['a line']);
INSERT INTO api_requests (timestamp, service, endpoint, method, code, duration)
  SELECT * FROM unnest(ARRAY[now()], ARRAY['signal-service'], ARRAY['/health'], ARRAY['GET'], ARRAY[200], ARRAY[0.001::double precision]);
