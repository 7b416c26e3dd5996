-- First data of the demo: instruments, and one week of index levels by the minute. Runs on the schema of v1, as
-- often as wanted, by the owner of the schema; about a second.
BEGIN;

INSERT INTO instruments
  (instrument, exchange, underlying, kind, lot_size, base_price, volatility, skew, curvature, rate, dividend, strike_step)
VALUES
  ('NSE@NIFTY@INDEX',     'NSE', 'NIFTY',     'INDEX', 50, 21500, 0.13, -0.25, 1.5, 0.065, 0.012, 50),
  ('NSE@BANKNIFTY@INDEX', 'NSE', 'BANKNIFTY', 'INDEX', 15, 48000, 0.16, -0.20, 1.2, 0.065, 0.008, 100),
  ('NSE@FINNIFTY@INDEX',  'NSE', 'FINNIFTY',  'INDEX', 40, 21400, 0.15, -0.22, 1.3, 0.065, 0.009, 50)
ON CONFLICT (instrument) DO NOTHING;

-- Twenty strikes on either side of the money, calls and puts.
INSERT INTO instruments (instrument, exchange, underlying, kind, option_type, strike, lot_size)
SELECT format('%s@%s@OPTION@%s@%s', i.exchange, i.underlying, s.strike, o.option_type),
       i.exchange, i.underlying, 'OPTION', o.option_type, s.strike, i.lot_size
FROM instruments AS i
CROSS JOIN generate_series(-20, 20) AS n(step)
CROSS JOIN LATERAL (SELECT (i.base_price + n.step * i.strike_step)::bigint AS strike) AS s
CROSS JOIN (VALUES ('CALL'), ('PUT')) AS o(option_type)
WHERE i.kind = 'INDEX'
ON CONFLICT (instrument) DO NOTHING;

-- The week that the checklist's historical request asks for.
INSERT INTO signal_ticks (time, instrument, price, volume)
SELECT t.time, i.instrument,
       round((i.base_price * (1 + 0.006 * sin(2 * pi() * t.epoch / 86400) + 0.002 * sin(2 * pi() * t.epoch / 3600)
         + 0.0007 * sin(2 * pi() * t.epoch / 300)) / 0.05)::numeric) * 0.05,
       1000 + (t.epoch / 60)::bigint % 977
FROM (SELECT time, extract(epoch FROM time)::double precision AS epoch
      FROM generate_series('2024-01-01T00:00Z'::timestamptz, '2024-01-07T23:59Z', '1 minute') AS g(time)) AS t
CROSS JOIN instruments AS i
WHERE i.kind = 'INDEX'
ON CONFLICT (instrument, time) DO NOTHING;

COMMIT;
ANALYZE instruments;
ANALYZE signal_ticks;
