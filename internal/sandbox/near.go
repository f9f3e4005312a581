package sandbox

import "strings"

// nearest returns the word that is most like got, "" if none is near enough
// to be what was meant: at most a third of its letters differ.
func nearest(got string, words []string) string {
	best, limit := "", max(1, len(got)/3)+1
	for _, w := range words {
		if d := distance(strings.ToLower(got), strings.ToLower(w)); d < limit {
			best, limit = w, d
		}
	}
	return best
}

// didYouMean is the end of an error message about an unknown word.
func didYouMean(got string, words []string) string {
	if w := nearest(got, words); w != "" {
		return "; did you mean " + w + "?"
	}
	if len(words) > 0 && len(words) <= 12 {
		return "; known are " + strings.Join(words, ", ")
	}
	return ""
}

// distance counts the insertions, deletions, changes and swaps of neighbours
// that turn a into b.
func distance(a, b string) int {
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
