// Performance validation of the release: k6 run load_test.js
//
// BASE_URL     where the service is reached (required), like http://10.79.0.60
// HOST_HEADER  Host header, where the address alone does not say which service is meant
// API          v1 or v2 (default v2)
// RATE         requests per second (default 100);  DURATION  (default 30s)
// SUMMARY      file for the JSON summary (default: none)
import http from 'k6/http';
import ws from 'k6/ws';
import { check } from 'k6';
import { Trend } from 'k6/metrics';

const api = __ENV.API || 'v2';
const rate = Number(__ENV.RATE || 100);
const duration = __ENV.DURATION || '30s';
const base = __ENV.BASE_URL;
const headers = __ENV.HOST_HEADER ? { Host: __ENV.HOST_HEADER } : {};
if (!base) {
  throw new Error('set BASE_URL, like k6 run -e BASE_URL=http://10.79.0.60 load_test.js');
}

const websocketLatency = new Trend('websocket_latency', true);

export const options = {
  scenarios: {
    requests: {
      executor: 'constant-arrival-rate', exec: 'requests', rate, timeUnit: '1s', duration,
      preAllocatedVUs: 50, maxVUs: 200,
    },
    subscriptions: { executor: 'per-vu-iterations', exec: 'subscriptions', vus: 5, iterations: 1, maxDuration: duration },
  },
  thresholds: {
    http_req_duration: ['p(99)<200'],
    http_req_failed: ['rate<0.001'],
    websocket_latency: ['p(95)<50'],
    checks: ['rate>0.999'],
    dropped_iterations: ['count<1'],
  },
  summaryTrendStats: ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'],
};

const strikes = [21300, 21400, 21500, 21600, 21700];
const moneyness = ['ATM', 'OTM5delta', 'OTM25delta', 'ITM25delta'];

function path(n) {
  const key = `NSE@NIFTY@OPTION@${strikes[n % strikes.length]}@${n % 2 ? 'CALL' : 'PUT'}`;
  if (n % 20 === 0) {
    return `/api/${api}/historical/greeks/${key}?from=2024-01-01&to=2024-01-07`;
  }
  if (api === 'v2' && n % 4 === 0) {
    return `/api/v2/realtime/moneyness/NIFTY/greeks/${moneyness[(n / 4) % moneyness.length]}`;
  }
  return `/api/${api}/realtime/greeks/${key}`;
}

export function requests() {
  const answer = http.get(base + path(Math.floor(Math.random() * 1000)), { headers, tags: { name: 'api' } });
  check(answer, { 'status is 200': (r) => r.status === 200 });
}

export function subscriptions() {
  const url = `${base.replace(/^http/, 'ws')}/api/${api}/subscriptions/websocket`;
  const answer = ws.connect(url, { headers }, (socket) => {
    const sent = {};
    let next = 0;
    let left = 10;
    socket.on('open', () => {
      socket.send(JSON.stringify({ type: 'subscribe', instrument: 'NSE@NIFTY@OPTION@21500@CALL' }));
      socket.setInterval(() => {
        sent[next] = Date.now();
        socket.send(JSON.stringify({ type: 'ping', t: next }));
        next += 1;
      }, 500);
    });
    socket.on('message', (text) => {
      const message = JSON.parse(text);
      if (message.type === 'pong') {
        websocketLatency.add(Date.now() - sent[message.t]);
        left -= 1;
        if (left === 0) {
          socket.close();
        }
      }
    });
  });
  check(answer, { 'WebSocket opened': (r) => r && r.status === 101 });
}

export function handleSummary(data) {
  const lines = [];
  for (const [name, metric] of Object.entries(data.metrics)) {
    for (const [limit, result] of Object.entries(metric.thresholds || {})) {
      lines.push(`${result.ok ? 'ok    ' : 'FAILED'} ${name} ${limit} ${JSON.stringify(metric.values)}`);
    }
  }
  const output = { stdout: lines.join('\n') + '\n' };
  if (__ENV.SUMMARY) {
    output[__ENV.SUMMARY] = JSON.stringify(data);
  }
  return output;
}
