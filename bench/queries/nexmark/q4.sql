-- Average price of a category: the mean of the highest valid bids of its auctions.
CREATE TABLE q4 (id BIGINT, final BIGINT, PRIMARY KEY (id) NOT ENFORCED) WITH (${sink});

INSERT INTO q4
SELECT won.category, AVG(won.final)
FROM (
  SELECT MAX(b.price) AS final, a.category
  FROM auction AS a
  JOIN bid AS b ON a.id = b.auction
  WHERE b.`dateTime` BETWEEN a.`dateTime` AND a.expires
  GROUP BY a.id, a.category
) AS won
GROUP BY won.category;
