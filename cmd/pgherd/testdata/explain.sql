-- What people write, and what it is.
SELECT id, lower(name) FROM shop.customers WHERE note <> 'a; b' AND id < 10;
select count(*) from orders o join lines using (id); /* two on a line */ VALUES (1);

INSERT INTO orders (amount) VALUES (1) RETURNING id;
WITH paid AS (UPDATE orders SET paid = true RETURNING id) SELECT count(*) FROM paid;
SELECT * FROM orders FOR UPDATE;
SELECT nextval('orders_id_seq');
SELECT our_function(1);
SELECT pg_advisory_lock(1);
CREATE TABLE t (a int);
SET search_path = shop;
LISTEN orders;
BEGIN; COMMIT;
SELECT $$a dollar; quoted$$;
frobnicate the orders;
SELECT 'it ends here
