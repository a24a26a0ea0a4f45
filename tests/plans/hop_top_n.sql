SELECT * FROM (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY window_start, window_end ORDER BY total DESC) AS n
  FROM (
    SELECT window_start, window_end, s, SUM(d) AS total
    FROM TABLE(HOP(TABLE orders_log, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '15' MINUTE))
    GROUP BY window_start, window_end, s) AS windows) AS ranked
WHERE n <= 3
