package routing

import "strings"

// A keyword is a word that the classifier gives a meaning to. The categories
// are those of https://www.postgresql.org/docs/current/sql-keywords-appendix.html
// and src/include/parser/kwlist.h.
type keyword uint8

const (
	kwNone keyword = iota // an ordinary name, or an unreserved keyword without meaning here

	// Unreserved: may name anything, functions too.
	kwAbort
	kwBegin
	kwBy
	kwCall
	kwCheckpoint
	kwClose
	kwCluster
	kwCommand // starts a statement that changes the database: ALTER, DROP, VACUUM …
	kwCommit
	kwConstraints
	kwCopy
	kwCube
	kwDeallocate
	kwDeclare
	kwDelete
	kwDiscard
	kwEscape
	kwExecute
	kwExplain
	kwFirst // FIRST and NEXT
	kwHold
	kwInsert
	kwKey
	kwListen
	kwLoad
	kwLocal // LOCAL and GLOBAL
	kwLock
	kwMaterialized
	kwMerge
	kwMove
	kwNo
	kwNotify
	kwOperator
	kwPrepare
	kwRecursive
	kwRelease
	kwReset
	kwRollback
	kwRollup
	kwRange // RANGE and GROUPS
	kwRows
	kwSavepoint
	kwSecond
	kwSet
	kwSets
	kwShare
	kwShow
	kwStart
	kwStdio // STDIN and STDOUT
	kwSystem
	kwTemp // TEMP and TEMPORARY
	kwTransaction
	kwTruncate
	kwUescape
	kwUnlisten
	kwUpdate
	kwVarying
	kwZone

	// Reserved, or usable as a function or type name only: never a table's or
	// a column's name.
	kwTypeFunc // LEFT, IS, CROSS …
	kwIlike    // ILIKE, LIKE and OVERLAPS are operators after an operand, else functions
	kwIsnull   // ISNULL and NOTNULL
	kwJoin
	kwLike
	kwNatural
	kwOverlaps
	kwSimilar
	kwTablesample
	kwVerbose

	// Usable as a name but not as a function's: what looks like a call has a
	// grammar of its own, and a fixed meaning.
	kwColName // COALESCE, EXTRACT, VARCHAR, XMLELEMENT …
	kwBetween
	kwGrouping
	kwBitChar // BIT, CHAR, CHARACTER, NCHAR
	kwInterval
	kwNullif
	kwPosition
	kwTreat
	kwXML // XMLEXISTS, XMLROOT: words of a grammar of their own among the arguments
	kwXMLParse
	kwXMLSerialize
	kwXMLTable
	kwValues

	// Reserved.
	kwReserved // AND, ELSE, RETURNING …: an expression follows
	kwConstant // NULL, CURRENT_USER …: an operand
	kwTrue
	kwFalse
	kwAnalyze // ANALYZE and ANALYSE
	kwArray
	kwAs
	kwCase
	kwCast
	kwClause // WHERE, HAVING, WINDOW, ORDER, LIMIT, OFFSET, FETCH: end the FROM clause
	kwCreate
	kwDesc // ASC and DESC: what follows is no operand either
	kwDistinct
	kwDo
	kwEnd
	kwFetch
	kwFor
	kwFrom
	kwGrant
	kwGroup
	kwIn
	kwInto
	kwLateral
	kwNot
	kwOn
	kwOnly
	kwOrder
	kwReturning
	kwSelect
	kwSetOp // UNION, INTERSECT, EXCEPT
	kwTable
	kwTo
	kwUsing
	kwVariadic
	kwWhen
	kwWith
)

// reserved reports whether k can be neither a column nor a function by itself.
func (k keyword) reserved() bool { return k >= kwReserved }

// typeFunc reports whether k may be a function's or a type's name only.
func (k keyword) typeFunc() bool { return kwTypeFunc <= k && k <= kwVerbose }

// colName reports whether k cannot name a function.
func (k keyword) colName() bool { return kwColName <= k && k <= kwValues }

// operand reports whether k, met as a word, may end an expression. A word
// that must be followed by an expression does not.
func (k keyword) operand() bool {
	switch k {
	case kwConstant, kwTrue, kwFalse, kwEnd, kwDesc:
		return true
	case kwBy:
		return false
	}
	return !k.reserved() && !k.typeFunc()
}

// keywords are the words that have a meaning.
var keywords = [...]struct {
	keyword keyword
	words   string
}{
	{kwAbort, "abort"},
	{kwBegin, "begin"},
	{kwBy, "by"},
	{kwCall, "call"},
	{kwCheckpoint, "checkpoint"},
	{kwClose, "close"},
	{kwCommand, "alter comment drop import reassign refresh reindex revoke security vacuum"},
	{kwCluster, "cluster"},
	{kwCommit, "commit"},
	{kwConstraints, "constraints"},
	{kwCopy, "copy"},
	{kwCube, "cube"},
	{kwDeallocate, "deallocate"},
	{kwDeclare, "declare"},
	{kwDelete, "delete"},
	{kwDiscard, "discard"},
	{kwEscape, "escape"},
	{kwExecute, "execute"},
	{kwExplain, "explain"},
	{kwFirst, "first next"},
	{kwHold, "hold"},
	{kwInsert, "insert"},
	{kwKey, "key"},
	{kwListen, "listen"},
	{kwLoad, "load"},
	{kwLocal, "local global"},
	{kwLock, "lock"},
	{kwMaterialized, "materialized"},
	{kwMerge, "merge"},
	{kwMove, "move"},
	{kwNo, "no"},
	{kwNotify, "notify"},
	{kwOperator, "operator"},
	{kwPrepare, "prepare"},
	{kwRecursive, "recursive"},
	{kwRelease, "release"},
	{kwReset, "reset"},
	{kwRollback, "rollback"},
	{kwRollup, "rollup"},
	{kwRange, "range groups"},
	{kwRows, "rows"},
	{kwSavepoint, "savepoint"},
	{kwSecond, "second"},
	{kwSet, "set"},
	{kwSets, "sets"},
	{kwShare, "share"},
	{kwShow, "show"},
	{kwStart, "start"},
	{kwStdio, "stdin stdout"},
	{kwSystem, "system"},
	{kwTemp, "temp temporary"},
	{kwTransaction, "transaction"},
	{kwTruncate, "truncate"},
	{kwUescape, "uescape"},
	{kwUnlisten, "unlisten"},
	{kwUpdate, "update"},
	{kwVarying, "varying"},
	{kwZone, "zone"},
	{kwTypeFunc, "authorization binary collation concurrently cross freeze full inner is left outer right"},
	{kwIlike, "ilike"},
	{kwIsnull, "isnull notnull"},
	{kwJoin, "join"},
	{kwLike, "like"},
	{kwNatural, "natural"},
	{kwOverlaps, "overlaps"},
	{kwSimilar, "similar"},
	{kwTablesample, "tablesample"},
	{kwColName, "bigint boolean coalesce dec decimal exists extract float greatest inout int integer least none " +
		"normalize numeric out precision real row setof smallint time timestamp trim varchar national " +
		"xmlattributes xmlconcat xmlelement xmlforest xmlnamespaces xmlpi"},
	{kwGrouping, "grouping"},
	{kwBitChar, "bit char character nchar"},
	{kwInterval, "interval"},
	{kwNullif, "nullif"},
	{kwPosition, "position"},
	{kwTreat, "treat"},
	{kwXML, "xmlexists xmlroot"},
	{kwXMLParse, "xmlparse"},
	{kwXMLSerialize, "xmlserialize"},
	{kwXMLTable, "xmltable"},
	{kwValues, "values"},
	{kwReserved, "all and any asymmetric both check collate column constraint default deferrable else foreign " +
		"initially leading or placing primary references some symmetric then trailing unique"},
	{kwConstant, "current_catalog current_date current_role current_time current_timestamp current_user localtime " +
		"localtimestamp null session_user user"},
	{kwTrue, "true"},
	{kwFalse, "false"},
	{kwAnalyze, "analyze analyse"},
	{kwArray, "array"},
	{kwAs, "as"},
	{kwBetween, "between"},
	{kwCase, "case"},
	{kwCast, "cast"},
	{kwDesc, "asc desc"},
	{kwClause, "where having window limit offset"},
	{kwCreate, "create"},
	{kwDistinct, "distinct"},
	{kwDo, "do"},
	{kwEnd, "end"},
	{kwFetch, "fetch"},
	{kwFor, "for"},
	{kwFrom, "from"},
	{kwGrant, "grant"},
	{kwGroup, "group"},
	{kwIn, "in"},
	{kwInto, "into"},
	{kwLateral, "lateral"},
	{kwNot, "not"},
	{kwOn, "on"},
	{kwOnly, "only"},
	{kwOrder, "order"},
	{kwReturning, "returning"},
	{kwSelect, "select"},
	{kwSetOp, "union intersect except"},
	{kwTable, "table"},
	{kwTo, "to"},
	{kwUsing, "using"},
	{kwVariadic, "variadic"},
	{kwVerbose, "verbose"},
	{kwWhen, "when"},
	{kwWith, "with"},
}

// keywordTable finds a keyword by its hash: the index of its spelling, or 0. The
// table is large enough for most words that are no keywords to meet a 0 at once.
var (
	keywordTable     [2048]uint16
	keywordSpellings = []struct {
		word    string
		keyword keyword
	}{{}}
	lower [256]byte // in ASCII
)

func init() {
	for b := range lower {
		lower[b] = byte(b)
		if 'A' <= b && b <= 'Z' {
			lower[b] += 'a' - 'A'
		}
	}
	for _, k := range keywords {
		for _, word := range strings.Fields(k.words) {
			h := keywordHash(word)
			for keywordTable[h] != 0 {
				h = (h + 1) % uint32(len(keywordTable))
			}
			keywordTable[h] = uint16(len(keywordSpellings))
			keywordSpellings = append(keywordSpellings, struct {
				word    string
				keyword keyword
			}{word, k.keyword})
		}
	}
}

func keywordHash(word string) uint32 {
	n := uint32(len(word))
	h := n + uint32(lower[word[0]])<<3 + uint32(lower[word[1]])<<6 + uint32(lower[word[n-1]])*37 + uint32(lower[word[n/2]])*101
	return h % uint32(len(keywordTable))
}

// keywordOf returns the meaning of an unquoted word.
func keywordOf(word string) keyword {
	const longest = 17
	if len(word) < 2 || len(word) > longest {
		return kwNone
	}
next:
	for h := keywordHash(word); keywordTable[h] != 0; h = (h + 1) % uint32(len(keywordTable)) {
		k := &keywordSpellings[keywordTable[h]]
		if len(k.word) != len(word) {
			continue
		}
		for i := range len(word) {
			if lower[word[i]] != k.word[i] {
				continue next
			}
		}
		return k.keyword
	}
	return kwNone
}
