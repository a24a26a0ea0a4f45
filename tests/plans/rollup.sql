SELECT s, flag, SUM(d) AS total FROM u GROUP BY ROLLUP (s, flag)
