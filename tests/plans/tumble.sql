SELECT window_start, window_end, s, SUM(b) AS total, COUNT(DISTINCT a) AS users
FROM TABLE(TUMBLE(TABLE orders_log, DESCRIPTOR(ts), INTERVAL '10' MINUTE)) WHERE d > 1
GROUP BY window_start, window_end, s
