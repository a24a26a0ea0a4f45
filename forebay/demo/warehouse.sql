-- A food-delivery warehouse: from one mixed binlog topic to a wide table, Parquet, and metrics served by key.
-- $log and $upsert are the connectors: the embedded topic log, or Kafka.

-- Source: the binlog of all tables in one topic, and a topic of clicks. Raw messages are written by the demo itself.
CREATE TABLE binlog_in (message STRING) WITH ($log, 'topic' = 'binlog', 'format' = 'raw');
CREATE TABLE clicks_in (message STRING) WITH ($log, 'topic' = 'clicks', 'format' = 'raw');

CREATE TABLE binlog (
  op STRING, event_time TIMESTAMP_LTZ(3), database_name STRING, table_name STRING,
  `before` STRING, `after` STRING, log_position STRING
) WITH ($log, 'topic' = 'binlog', 'scan.startup.mode' = 'earliest-offset',
  'format' = 'canal-json', 'canal-json.envelope' = 'true');
CREATE TABLE clicks (user_id BIGINT, page STRING, ts TIMESTAMP(3))
WITH ($log, 'topic' = 'clicks', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json');

-- ODS: one topic per table, one envelope for changes and log events alike.
CREATE TABLE ods (
  op STRING, event_time TIMESTAMP_LTZ(3), database_name STRING, table_name STRING,
  `before` STRING, `after` STRING, log_position STRING, topic STRING METADATA
) WITH ($log, 'format' = 'ods-json', 'ods-json.envelope' = 'true', $once);
CREATE TABLE ods_clicks (user_id BIGINT, page STRING, ts TIMESTAMP(3))
WITH ($log, 'topic' = 'ods_log_clicks', 'format' = 'ods-json', 'ods-json.database-name' = 'log',
  'ods-json.table-name' = 'clicks', 'ods-json.event-time-column' = 'ts');

SET 'pipeline.name' = 'demux';
EXECUTE STATEMENT SET BEGIN
  INSERT INTO ods
  SELECT op, event_time, database_name, table_name, `before`, `after`, log_position, CONCAT('ods_', database_name, '_', table_name)
  FROM binlog;
  INSERT INTO ods_clicks SELECT user_id, page, ts FROM clicks WHERE page LIKE '/shop/%';
END;

CREATE TABLE shops (id BIGINT, name STRING, city STRING, PRIMARY KEY (id) NOT ENFORCED)
WITH ($log, 'topic' = 'ods_food_shops', 'scan.startup.mode' = 'earliest-offset', 'format' = 'ods-json');
CREATE TABLE orders (
  id BIGINT, user_id BIGINT, shop_id BIGINT, amount DECIMAL(10, 2), status STRING, ordered TIMESTAMP(3),
  PRIMARY KEY (id) NOT ENFORCED
) WITH ($log, 'topic' = 'ods_food_orders', 'scan.startup.mode' = 'earliest-offset', 'format' = 'ods-json');
CREATE TABLE refunds (
  id BIGINT, order_id BIGINT, amount DECIMAL(10, 2), refunded TIMESTAMP(3), PRIMARY KEY (id) NOT ENFORCED
) WITH ($log, 'topic' = 'ods_food_refunds', 'scan.startup.mode' = 'earliest-offset', 'format' = 'ods-json');

-- Chain 1: the wide table, an order and its refund up to thirty days apart; queried in place, and kept as Parquet.
CREATE MATERIALIZED VIEW wide AS
SELECT o.id, o.user_id, s.name AS shop, s.city, o.amount, o.status, o.ordered, r.amount AS refunded
FROM orders o
JOIN shops s ON o.shop_id = s.id
LEFT JOIN refunds r ON o.id = r.order_id AND r.refunded BETWEEN o.ordered AND o.ordered + INTERVAL '30' DAY;

CREATE MATERIALIZED VIEW best_shops (city, shop, amount, place) WITH ('refresh.interval' = '2 s') AS
SELECT city, shop, amount, place FROM (
  SELECT city, shop, SUM(amount) AS amount, ROW_NUMBER() OVER (PARTITION BY city ORDER BY SUM(amount) DESC, shop) AS place
  FROM wide GROUP BY city, shop)
WHERE place <= 3;

CREATE TABLE wide_files (
  id BIGINT, shop STRING, amount DECIMAL(10, 2), ordered TIMESTAMP(3), refunded DECIMAL(10, 2), city STRING
) PARTITIONED BY (city) WITH ('connector' = 'filesystem', 'path' = '$files', 'format' = 'parquet');

-- Chain 2: the wide table as a topic of upserts, metrics per city and minute from there, served by key.
CREATE TABLE wide_topic (
  id BIGINT, city STRING, amount DECIMAL(10, 2), ordered TIMESTAMP(3), refunded DECIMAL(10, 2), PRIMARY KEY (id) NOT ENFORCED
) WITH ($upsert, 'topic' = 'wide', 'key.format' = 'json', 'value.format' = 'json', $once);

SET 'pipeline.name' = 'publish_wide';
INSERT INTO wide_topic SELECT id, city, amount, ordered, refunded FROM wide;

CREATE MATERIALIZED VIEW city_minute AS
SELECT city, DATE_FORMAT(ordered, 'yyyy-MM-dd HH:mm') AS `minute`, COUNT(*) AS orders, SUM(amount) AS amount,
  SUM(COALESCE(refunded, 0)) AS refunded
FROM wide_topic
GROUP BY city, DATE_FORMAT(ordered, 'yyyy-MM-dd HH:mm');
