// Package edit measures how much two words differ, to find what was meant by one that
// nobody knows.
package edit

// Distance returns the number of bytes to insert, delete or replace in order to get
// from a to b. https://en.wikipedia.org/wiki/Levenshtein_distance
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
