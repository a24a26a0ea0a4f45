SELECT a, UNNEST(arr) AS item FROM u
