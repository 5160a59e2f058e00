package routing

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
	kwXML // XMLEXISTS, XMLPARSE, XMLROOT: words of a grammar of their own among the arguments
	kwXMLSerialize
	kwXMLTable
	kwValues

	// Reserved.
	kwReserved // AND, ELSE, RETURNING …: an expression follows
	kwConstant // NULL, CURRENT_USER …: an operand
	kwTrue
	kwFalse
	kwAnalyze // ANALYZE and ANALYSE
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

// keywordOf returns the meaning of an unquoted word.
func keywordOf(word string) keyword {
	const longest = 17
	if len(word) < 2 || len(word) > longest {
		return kwNone
	}
	var buf [longest]byte
	for i := 0; i < len(word); i++ {
		c := word[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf[i] = c
	}
	switch string(buf[:len(word)]) {
	case "abort":
		return kwAbort
	case "begin":
		return kwBegin
	case "by":
		return kwBy
	case "call":
		return kwCall
	case "checkpoint":
		return kwCheckpoint
	case "close":
		return kwClose
	case "alter", "comment", "drop", "import", "reassign", "refresh", "reindex", "revoke", "security", "vacuum":
		return kwCommand
	case "cluster":
		return kwCluster
	case "commit":
		return kwCommit
	case "constraints":
		return kwConstraints
	case "copy":
		return kwCopy
	case "cube":
		return kwCube
	case "deallocate":
		return kwDeallocate
	case "declare":
		return kwDeclare
	case "delete":
		return kwDelete
	case "discard":
		return kwDiscard
	case "escape":
		return kwEscape
	case "execute":
		return kwExecute
	case "explain":
		return kwExplain
	case "first", "next":
		return kwFirst
	case "hold":
		return kwHold
	case "insert":
		return kwInsert
	case "key":
		return kwKey
	case "listen":
		return kwListen
	case "load":
		return kwLoad
	case "local", "global":
		return kwLocal
	case "lock":
		return kwLock
	case "materialized":
		return kwMaterialized
	case "merge":
		return kwMerge
	case "move":
		return kwMove
	case "no":
		return kwNo
	case "notify":
		return kwNotify
	case "operator":
		return kwOperator
	case "prepare":
		return kwPrepare
	case "recursive":
		return kwRecursive
	case "release":
		return kwRelease
	case "reset":
		return kwReset
	case "rollback":
		return kwRollback
	case "rollup":
		return kwRollup
	case "range", "groups":
		return kwRange
	case "rows":
		return kwRows
	case "savepoint":
		return kwSavepoint
	case "second":
		return kwSecond
	case "set":
		return kwSet
	case "sets":
		return kwSets
	case "share":
		return kwShare
	case "show":
		return kwShow
	case "start":
		return kwStart
	case "stdin", "stdout":
		return kwStdio
	case "system":
		return kwSystem
	case "temp", "temporary":
		return kwTemp
	case "transaction":
		return kwTransaction
	case "truncate":
		return kwTruncate
	case "uescape":
		return kwUescape
	case "unlisten":
		return kwUnlisten
	case "update":
		return kwUpdate
	case "varying":
		return kwVarying
	case "zone":
		return kwZone

	case "authorization", "binary", "collation", "concurrently", "cross", "freeze", "full", "inner", "is", "left",
		"outer", "right":
		return kwTypeFunc
	case "ilike":
		return kwIlike
	case "isnull", "notnull":
		return kwIsnull
	case "join":
		return kwJoin
	case "like":
		return kwLike
	case "natural":
		return kwNatural
	case "overlaps":
		return kwOverlaps
	case "similar":
		return kwSimilar
	case "tablesample":
		return kwTablesample

	case "bigint", "boolean", "coalesce", "dec", "decimal", "exists", "extract", "float", "greatest", "inout",
		"int", "integer", "least", "none", "normalize", "numeric", "out", "precision",
		"real", "row", "setof", "smallint", "time", "timestamp", "trim", "varchar", "national",
		"xmlattributes", "xmlconcat", "xmlelement", "xmlforest", "xmlnamespaces", "xmlpi":
		return kwColName
	case "grouping":
		return kwGrouping
	case "bit", "char", "character", "nchar":
		return kwBitChar
	case "interval":
		return kwInterval
	case "nullif":
		return kwNullif
	case "position":
		return kwPosition
	case "treat":
		return kwTreat
	case "xmlexists", "xmlparse", "xmlroot":
		return kwXML
	case "xmlserialize":
		return kwXMLSerialize
	case "xmltable":
		return kwXMLTable
	case "values":
		return kwValues

	case "all", "and", "any", "array", "asymmetric", "both", "check", "collate", "column", "constraint", "default", "deferrable",
		"else", "foreign", "initially", "leading", "or", "placing", "primary", "references", "some", "symmetric", "then",
		"trailing", "unique":
		return kwReserved
	case "current_catalog", "current_date", "current_role", "current_time", "current_timestamp", "current_user",
		"localtime", "localtimestamp", "null", "session_user", "user":
		return kwConstant
	case "true":
		return kwTrue
	case "false":
		return kwFalse
	case "analyze", "analyse":
		return kwAnalyze
	case "as":
		return kwAs
	case "between":
		return kwBetween
	case "case":
		return kwCase
	case "cast":
		return kwCast
	case "asc", "desc":
		return kwDesc
	case "where", "having", "window", "limit", "offset":
		return kwClause
	case "create":
		return kwCreate
	case "distinct":
		return kwDistinct
	case "do":
		return kwDo
	case "end":
		return kwEnd
	case "fetch":
		return kwFetch
	case "for":
		return kwFor
	case "from":
		return kwFrom
	case "grant":
		return kwGrant
	case "group":
		return kwGroup
	case "in":
		return kwIn
	case "into":
		return kwInto
	case "lateral":
		return kwLateral
	case "not":
		return kwNot
	case "on":
		return kwOn
	case "only":
		return kwOnly
	case "order":
		return kwOrder
	case "returning":
		return kwReturning
	case "select":
		return kwSelect
	case "union", "intersect", "except":
		return kwSetOp
	case "table":
		return kwTable
	case "to":
		return kwTo
	case "using":
		return kwUsing
	case "variadic":
		return kwVariadic
	case "verbose":
		return kwVerbose
	case "when":
		return kwWhen
	case "with":
		return kwWith
	}
	return kwNone
}
