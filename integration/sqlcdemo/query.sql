-- name: GetAuthor :one
SELECT * FROM authors
WHERE id = $1 LIMIT 1;

-- name: ListAuthors :many
SELECT * FROM authors
ORDER BY name;

-- name: CreateAuthor :one
INSERT INTO authors (
  name, bio
) VALUES (
  $1, $2
)
RETURNING *;

-- name: UpdateAuthor :exec
UPDATE authors
  set name = $2,
  bio = $3
WHERE id = $1;

-- name: DeleteAuthor :exec
DELETE FROM authors
WHERE id = $1;

-- name: ListAuthorsByIDs :many
SELECT * FROM authors
WHERE id = ANY($1::bigint[]);

-- name: CountAuthors :one
SELECT count(*) FROM authors;

-- name: RenameAuthors :execrows
UPDATE authors SET name = $1
WHERE name = $2;
