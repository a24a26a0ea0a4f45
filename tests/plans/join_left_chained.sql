SELECT o.a, s.d AS shop, c.s AS city
FROM t AS o LEFT JOIN t AS s ON o.b = s.a LEFT JOIN u AS c ON s.b = c.a AND c.d > o.d
