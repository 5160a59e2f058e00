package grammar

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/pgherd/pgherd/routing"
	"github.com/wasilibs/go-pgquery/parser"
)

// A parsed is one statement as PostgreSQL's own grammar reads it: that of
// version 17, in libpg_query.
type parsed struct {
	sql  string // its part of the text
	kind string // of its node
	node fields

	writes, locks, into, temp bool

	functions, relations, operators, types set

	calls    map[string][]arguments // of each function
	syntax   set                    // functions that are called by a syntax of their own: substring(… FROM …)
	json     bool                   // uses constructors that are no functions from version 16 on
	infers   bool                   // ON CONFLICT (…)
	plus     bool                   // a sign that the grammar does not take for part of a number
	defaults bool                   // DEFAULT is used like an operand, which the grammar has but nothing means
}

// fields are those of a node.
type fields = map[string]any

type set map[string]bool

func (s set) String() string { return strings.Join(slices.Sorted(maps.Keys(s)), ", ") }

// parse reads a text of any number of statements.
func parse(sql string) ([]*parsed, error) {
	tree, err := parser.ParseToJSON(sql)
	if err != nil {
		return nil, err
	}
	var result struct {
		Stmts []struct {
			Stmt     fields
			Location int `json:"stmt_location"`
			Len      int `json:"stmt_len"`
		}
	}
	if err := json.Unmarshal([]byte(tree), &result); err != nil {
		return nil, err
	}
	var list []*parsed
	for _, s := range result.Stmts {
		end := len(sql)
		if s.Len > 0 {
			end = s.Location + s.Len
		}
		p := &parsed{
			sql:       strings.Trim(sql[s.Location:end], " \t\n\r\f\v"),
			functions: set{}, relations: set{}, operators: set{}, types: set{}, calls: map[string][]arguments{}, syntax: set{},
		}
		p.kind, p.node = unwrap(s.Stmt)
		p.visit(p.kind, p.node, nil)
		list = append(list, p)
	}
	return list, nil
}

// unwrap takes {"SelectStmt": {…}} apart. Where the tree leaves the kind of a
// node no choice, it does not say it, and kind is empty.
func unwrap(v any) (kind string, node fields) {
	m, _ := v.(fields)
	if len(m) == 1 {
		for k, v := range m {
			if node, ok := v.(fields); ok && unicode.IsUpper(rune(k[0])) {
				return k, node
			}
		}
	}
	return "", m
}

// kinds of nodes that are not said, by the name of the field.
var fieldKinds = map[string]string{
	"typeName":   "TypeName",
	"larg":       "SelectStmt",
	"rarg":       "SelectStmt",
	"relation":   "RangeVar",
	"intoClause": "IntoClause",
	"into":       "IntoClause",
	"infer":      "InferClause",
}

// A scope lists the names of WITH.
type scope []string

func (p *parsed) walk(v any, field string, ctes scope) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			p.walk(e, field, ctes)
		}
	case fields:
		kind, node := unwrap(v)
		if kind == "" {
			kind = fieldKinds[field]
		}
		p.visit(kind, node, ctes)
	}
}

func (p *parsed) visit(kind string, n fields, ctes scope) {
	switch kind {
	case "SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt":
		ctes = p.with(n["withClause"], ctes)
		p.locks = p.locks || n["lockingClause"] != nil
		if kind != "SelectStmt" {
			p.writes = true
			p.target(n["relation"])
		}
		for field, v := range n {
			if field != "withClause" && field != "lockingClause" && !(field == "relation" && kind != "SelectStmt") {
				p.walk(v, field, ctes)
			}
		}
		return
	case "IntoClause":
		p.into = true
		rel, _ := n["rel"].(fields)
		p.temp = p.temp || rel["relpersistence"] == "t" || rel["schemaname"] == "pg_temp"
		return
	case "RangeVar":
		if name, _ := n["relname"].(string); n["schemaname"] != nil || !slices.Contains(ctes, name) {
			p.target(n)
		}
		p.temp = p.temp || n["relpersistence"] == "t"
		return
	case "FuncCall":
		name := dotted(n["funcname"])
		if n["funcformat"] == "COERCE_SQL_SYNTAX" || strings.HasPrefix(name, "pg_catalog.") && containsAny(strings.ToLower(p.sql), "escape", "similar", "treat") {
			p.syntax[strings.TrimPrefix(name, "pg_catalog.")] = true
			break
		}
		open := n["agg_order"] != nil || n["func_variadic"] == true || n["agg_within_group"] == true
		p.call(name, n["args"], open)
	case "RangeTableSample":
		p.call(dotted(n["method"]), n["args"], false)
	case "A_Expr":
		name := dotted(n["name"])
		switch n["kind"] {
		case "AEXPR_BETWEEN", "AEXPR_BETWEEN_SYM":
			p.operators[">="], p.operators["<="] = true, true
		case "AEXPR_NOT_BETWEEN", "AEXPR_NOT_BETWEEN_SYM":
			p.operators["<"], p.operators[">"] = true, true
		default:
			p.operator(name)
			p.plus = p.plus || name == "+" && n["lexpr"] == nil
		}
	case "SubLink":
		switch {
		case n["operName"] != nil:
			p.operator(dotted(n["operName"]))
		case n["subLinkType"] == "ANY_SUBLINK":
			p.operator("=")
		}
	case "SortBy":
		if n["useOp"] != nil {
			p.operator(dotted(n["useOp"]))
		}
	case "CaseExpr":
		if n["arg"] != nil {
			p.operator("=")
		}
	case "JoinExpr":
		if n["isNatural"] == true || n["usingClause"] != nil {
			p.operator("=")
		}
	case "TypeName":
		if name := dotted(n["names"]); name != "" && !strings.HasPrefix(name, "pg_catalog.") {
			p.types[name] = true // those of pg_catalog may be keywords: INT
		}
	case "InferClause":
		p.infers = true
	case "SetToDefault":
		p.defaults = true
	case "CreateSchemaStmt":
		return // nothing temporary can be in it
	case "PrepareStmt", "ViewStmt":
		p.walk(n["query"], "query", ctes)
		return
	default:
		p.json = p.json || strings.HasPrefix(kind, "Json") || kind == "MergeSupportFunc"
	}
	for field, v := range n {
		p.walk(v, field, ctes)
	}
}

// with reads a WITH clause, and returns the scope of what follows.
func (p *parsed) with(clause any, ctes scope) scope {
	_, with := unwrap(clause)
	items, _ := with["ctes"].([]any)
	ctes = slices.Clip(ctes)
	if with["recursive"] == true {
		for _, item := range items {
			_, cte := unwrap(item)
			ctes = append(ctes, cte["ctename"].(string))
		}
	}
	for _, item := range items {
		_, cte := unwrap(item)
		p.walk(cte, "", ctes)
		if with["recursive"] != true {
			ctes = append(ctes, cte["ctename"].(string))
		}
	}
	return ctes
}

// target notes a relation that WITH cannot define.
func (p *parsed) target(v any) {
	_, n := unwrap(v)
	var parts []string
	for _, field := range []string{"catalogname", "schemaname", "relname"} {
		if s, ok := n[field].(string); ok {
			parts = append(parts, quoted(s))
		}
	}
	p.relations[strings.Join(parts, ".")] = true
}

// arguments are those of a call, as bits of [routing.Overload]: what literal each
// is. They are nil if more may be added to them than the text shows.
type arguments []uint8

func (p *parsed) call(name string, args any, open bool) {
	name = strings.TrimPrefix(name, "pg_catalog.")
	p.functions[name] = true
	var list arguments
	if !open {
		list = arguments{}
		args, _ := args.([]any)
		for _, arg := range args {
			list = append(list, literal(arg))
		}
	}
	p.calls[name] = append(p.calls[name], list)
}

// literal tells what literal an argument is, if it is one.
func literal(arg any) uint8 {
	kind, n := unwrap(arg)
	switch {
	case kind != "A_Const":
		return 0
	case n["sval"] != nil:
		return routing.RefusesString
	case n["ival"] != nil:
		return routing.RefusesInteger
	case n["boolval"] != nil:
		return routing.RefusesBoolean
	case n["fval"] != nil:
		f, _ := n["fval"].(fields)["fval"].(string)
		if strings.ContainsAny(f, ".eE") && !strings.HasPrefix(f, "0x") {
			return routing.RefusesNumeric
		}
		return routing.RefusesInteger // too great for the parser
	}
	return 0
}

func (p *parsed) operator(name string) {
	p.operators[strings.TrimPrefix(name, "pg_catalog.")] = true
}

// dotted joins a list of String nodes.
func dotted(list any) string {
	items, _ := list.([]any)
	var parts []string
	for _, item := range items {
		_, s := unwrap(item)
		part, _ := s["sval"].(string)
		parts = append(parts, quoted(part))
	}
	return strings.Join(parts, ".")
}

// quoted is a part of a name as routing writes it.
func quoted(part string) string {
	if part == "" || strings.ContainsAny(part, `."`) {
		return `"` + strings.ReplaceAll(part, `"`, `""`) + `"`
	}
	return part
}

// scanned reports whether the statement is a query or changes data.
func (p *parsed) scanned() bool {
	switch p.kind {
	case "SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "DeclareCursorStmt":
		return true
	case "CopyStmt":
		return p.node["is_from"] != true
	case "ExplainStmt":
		kind, query := unwrap(p.node["query"])
		return (&parsed{kind: kind, node: query}).scanned()
	}
	return false
}

// named reports whether the names of the statement are known.
func (p *parsed) named() bool {
	switch p.kind {
	case "LockStmt", "PrepareStmt", "TruncateStmt":
		return true
	case "CreateTableAsStmt", "ViewStmt":
		kind, _ := unwrap(p.node["query"])
		return kind == "SelectStmt" && !containsAny(strings.ToLower(p.sql), "recursive")
	}
	return p.scanned()
}

// analyzes reports whether EXPLAIN runs its statement.
func (p *parsed) analyzes() (on bool) {
	options, _ := p.node["options"].([]any)
	for _, o := range options {
		_, option := unwrap(o)
		if option["defname"] != "analyze" {
			continue
		}
		kind, value := unwrap(option["arg"])
		switch s, _ := value["sval"].(string); {
		case kind == "Integer":
			on = value["ival"] != nil // absent if it is 0
		default:
			on = !strings.EqualFold(s, "off") && !strings.EqualFold(s, "false")
		}
	}
	return on
}

// runsText reports whether the statement calls a function that is given a text
// to run.
func (p *parsed) runsText() bool {
	for name := range p.functions {
		if containsAny(name, "query_to_xml", "table_to_xml", "ts_stat", "ts_rewrite") {
			return true
		}
	}
	return false
}

// An answer is what a statement is, with the reason where the kind of the
// statement alone tells it.
type answer struct {
	class  routing.Class
	reason routing.Reason
}

// anyReason stands for whatever reason the class has.
const anyReason = routing.Reason(255)

// utilities are the answers for statements whose kind tells. Those not
// listed here define something.
var utilities = map[string]answer{
	"VariableShowStmt":   {routing.SessionState, routing.ReasonSessionState},
	"DiscardStmt":        {routing.SessionState, routing.ReasonSessionState},
	"ListenStmt":         {routing.SessionState, routing.ReasonSessionState},
	"UnlistenStmt":       {routing.SessionState, routing.ReasonSessionState},
	"LoadStmt":           {routing.SessionState, routing.ReasonSessionState},
	"PrepareStmt":        {routing.SessionState, routing.ReasonSessionState},
	"DeallocateStmt":     {routing.SessionState, routing.ReasonSessionState},
	"FetchStmt":          {routing.SessionState, routing.ReasonSessionState},
	"ClosePortalStmt":    {routing.SessionState, routing.ReasonSessionState},
	"ConstraintsSetStmt": {routing.SessionState, routing.ReasonSessionState},
	"ExecuteStmt":        {routing.Write, routing.ReasonSessionState},
	"NotifyStmt":         {routing.Write, routing.ReasonWrite},
	"TransactionStmt":    {routing.Txn, routing.ReasonTransactionControl},
	"LockStmt":           {routing.Write, routing.ReasonLock},
	"CheckPointStmt":     {routing.Write, routing.ReasonServerState},
	"AlterSystemStmt":    {routing.Write, routing.ReasonServerState},
	"DoStmt":             {routing.Write, routing.ReasonFunction},
	"CallStmt":           {routing.Write, routing.ReasonFunction},
}

// answer is what the tree tells of the statement, and base what it would be
// if all that only a catalogue can know were harmless.
func (p *parsed) answer() (text, base answer) {
	switch p.kind {
	case "VariableSetStmt":
		if p.node["kind"] == "VAR_SET_MULTI" && p.node["name"] != "SESSION CHARACTERISTICS" {
			return answer{routing.Txn, routing.ReasonTransactionControl}, answer{routing.Txn, anyReason}
		}
		return answer{routing.SessionState, routing.ReasonSessionState}, answer{routing.SessionState, anyReason}
	case "ExplainStmt":
		kind, query := unwrap(p.node["query"])
		inner := *p
		inner.kind, inner.node = kind, query
		if !p.analyzes() {
			inner.writes, inner.locks, inner.into = false, false, false
			switch kind {
			case "DeclareCursorStmt":
				inner.kind = "SelectStmt"
			case "CreateTableAsStmt":
				if kind, _ := unwrap(query["query"]); kind == "SelectStmt" {
					inner.kind = kind
				}
			}
		}
		text, base := inner.answer()
		for _, a := range []*answer{&text, &base} {
			if a.class != routing.Read {
				a.class = routing.Write
			}
		}
		return text, base
	}
	if a, ok := utilities[p.kind]; ok {
		return a, a
	}
	if p.kind == "CopyStmt" && !p.scanned() {
		return answer{routing.Write, routing.ReasonWrite}, answer{routing.Write, routing.ReasonWrite}
	}
	if !p.scanned() {
		return answer{routing.Write, routing.ReasonDDL}, answer{routing.Write, routing.ReasonDDL}
	}

	text, base = answer{routing.Read, anyReason}, answer{routing.Read, anyReason}
	raise := func(a *answer, class routing.Class) {
		if class == routing.Write || a.class == routing.Read {
			a.class = class
		}
	}
	both := func(class routing.Class) { raise(&text, class); raise(&base, class) }
	switch {
	case p.writes, p.into:
		return answer{routing.Write, routing.ReasonWrite}, answer{routing.Write, routing.ReasonWrite}
	case p.locks:
		both(routing.Write)
	}
	switch p.kind {
	case "DeclareCursorStmt":
		both(routing.SessionState)
	case "CopyStmt":
		if p.node["is_program"] == true || p.node["filename"] != nil {
			both(routing.Write)
		}
	}
	for name := range p.functions {
		m := routing.FunctionMeaning(name)
		switch {
		case strings.Contains(name, "."), m.Class == routing.Unclassified:
			raise(&text, routing.Write)
		default:
			both(m.Class)
		}
	}
	for name := range p.operators {
		if strings.Contains(name, ".") {
			raise(&text, routing.Write)
		}
	}
	for name := range p.relations {
		both(routing.RelationMeaning(name[strings.LastIndexByte(name, '.')+1:]).Class)
	}
	return text, base
}

// differences tells where what routing says of the statement is not what its
// tree tells.
func (p *parsed) differences() (list []string) {
	st := routing.Classify(p.sql)
	differ := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }

	if p.runsText() {
		return nil // whose names are those of the statement, too
	}
	want, wantBase := p.answer()
	switch {
	case backslash(p.sql):
		if st.Class == routing.Read && want.class != routing.Read {
			differ("a %s is a read", p.kind)
		}
		return list
	case st.Class == routing.Unclassified:
		differ("a %s is unclassified", p.kind)
		return list
	}
	// A column named like a sequence's, or an object of pg_temp, is judged by
	// its name, wherever it stands.
	byName := containsAny(strings.ToLower(p.sql), "last_value", "log_cnt", "is_called", "pg_temp", "pg_toast_temp", `u&"`)
	if !byName && (st.Class != want.class || want.reason != anyReason && st.Reason != want.reason) {
		differ("a %s is %s/%s, want %s/%s", p.kind, st.Class, st.Reason, want.class, want.reason)
	}
	if p.temp && !st.Pins && (p.kind != "ExplainStmt" || p.analyzes()) {
		differ("a temporary table does not pin")
	}
	if !p.named() {
		return list
	}
	compare := func(what string, got []string, want set, allowed func(string) bool) {
		g := set{}
		for _, name := range got {
			if rest, ok := strings.CutPrefix(name, "pg_catalog."); !ok {
				g[name] = true
			} else if what != "types" {
				g[rest] = true
			}
		}
		for name := range g {
			if !want[name] && !allowed(name) {
				differ("%s: got %s, want %s", what, g, want)
				return
			}
		}
		for name := range want {
			if !g[name] && !allowed(name) {
				differ("%s: got %s, want %s", what, g, want)
				return
			}
		}
	}
	compare("functions", st.Functions, p.functions, p.keywordCall)
	compare("relations", st.Relations, unqualify(p.relations), keywordRelation)
	if !p.defaults {
		compare("types", st.Types, p.types, p.keywordType)
		compare("operators", st.Operators, p.operators, p.constant)
	}
	if want.class != routing.Read || byName || !p.scanned() {
		return list
	}

	// What a catalogue can tell is asked through one that answers for a single
	// name. All others are harmless.
	if judged, _ := routing.Judge(p.sql, st, oneFunction{}); judged.Class != wantBase.class {
		differ("with a harmless catalogue %s, want %s", judged.Class, wantBase.class)
	}
	for name, calls := range p.calls {
		if p.keywordCall(name) || slices.ContainsFunc(calls, func(a arguments) bool { return a == nil }) {
			continue
		}
		try := func(f oneFunction, takes func(arguments) bool) {
			judged, _ := routing.Judge(p.sql, st, f)
			got, want := judged.Class != routing.Read, slices.ContainsFunc(calls, takes)
			// A literal in parentheses need not be known for one.
			if got != want && (want || f.refuses == [4]uint8{}) {
				differ("%+v is called: %t, want %t", f, got, want)
			}
		}
		for n := range 6 {
			try(oneFunction{name: name, n: n}, func(a arguments) bool { return len(a) == n })
		}
		for n := range len(calls[0]) {
			for _, bit := range []uint8{routing.RefusesString, routing.RefusesInteger, routing.RefusesNumeric, routing.RefusesBoolean} {
				if n < 4 && !p.plus {
					f := oneFunction{name: name, n: len(calls[0])}
					f.refuses[n] = bit
					try(f, func(a arguments) bool { return len(a) == f.n && a[n] != bit })
				}
			}
		}
	}
	return list
}

// keywordCall allows for names that are functions up to one version, and words
// of the grammar from then on.
func (p *parsed) keywordCall(name string) bool {
	switch name {
	case "json", "json_array", "json_arrayagg", "json_exists", "json_object", "json_objectagg", "json_query", "json_scalar",
		"json_serialize", "json_table", "json_value", "merge_action":
		return p.json
	}
	return p.syntax[name] || modified.MatchString(p.sql)
}

// modified matches a parameter in place of the literal of a type with modifiers,
// which only libpg_query takes.
var modified = regexp.MustCompile(`\)\s*\$\d`)

// keywordType allows for JSON, which is a keyword from version 17 on, for TREAT
// (… AS type), which the grammar makes a call of a function of that name, and for
// parameters in place of literals, date $1, which only libpg_query takes.
func (p *parsed) keywordType(name string) bool {
	return name == "json" || containsAny(strings.ToLower(p.sql), "treat", "$")
}

// keywordRelation allows for a word that is reserved from version 16 on.
func keywordRelation(name string) bool { return name == "system_user" }

// constant allows for a minus before a parenthesis, which the grammar may make
// part of a number, and for parameters of operator classes: ON CONFLICT (a b (c = 1)).
func (p *parsed) constant(name string) bool {
	return name == "-" && negated.MatchString(p.sql) || name == "=" && p.infers
}

var negated = regexp.MustCompile(`-[\s-]*\(`)

// backslash reports whether a string may be read differently with
// standard_conforming_strings off. Then the stronger of two answers counts.
func backslash(sql string) bool { return strings.Contains(sql, `\'`) }

func containsAny(s string, list ...string) bool {
	return slices.ContainsFunc(list, func(sub string) bool { return strings.Contains(s, sub) })
}

func unqualify(s set) set {
	u := set{}
	for name := range s {
		u[strings.TrimPrefix(name, "pg_catalog.")] = true
	}
	return u
}

// oneFunction is a catalogue in which all is harmless but a function of one
// name that takes n arguments, and refuses some literals.
type oneFunction struct {
	name    string
	n       int
	refuses [4]uint8
}

func (o oneFunction) Function(name string) ([]routing.Overload, bool) {
	harmless := routing.Overload{Meaning: routing.Harmless, MaxArgs: -1}
	if strings.TrimPrefix(name, "pg_catalog.") != o.name {
		return []routing.Overload{harmless}, true
	}
	writes := routing.Meaning{Class: routing.Write, Reason: routing.ReasonFunction}
	return []routing.Overload{harmless, {Meaning: writes, MinArgs: o.n, MaxArgs: o.n, Refuses: o.refuses}}, true
}

func (oneFunction) Relation(string) (routing.Meaning, bool) { return routing.Harmless, true }
func (oneFunction) Operator(string) (routing.Meaning, bool) { return routing.Harmless, true }
func (oneFunction) Type(string) (routing.Meaning, bool)     { return routing.Harmless, true }
