package doctor

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// said are the findings that the commands printed in all tests: each that the
// source knows has to be among them (complete).
var said []string

// record keeps what a command printed.
func record(out string) {
	for line := range strings.Lines(out) {
		said = append(said, strings.TrimSuffix(line, "\n"))
	}
}

// complete reports which findings of the source no test provoked. It knows only
// after all tests.
func complete() error {
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" {
		return nil
	}
	source := filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "libexec", "doctor")
	known, err := findings(source)
	if err != nil {
		return err
	}
	if len(known) < 30 {
		return fmt.Errorf("only %d findings are known in %s", len(known), source)
	}
	var missing []error
next:
	for at, line := range known {
		for _, s := range said {
			if line.MatchString(s) {
				continue next
			}
		}
		missing = append(missing, fmt.Errorf("%s: no test breaks the machine so that doctor says %s", at, line))
	}
	return errors.Join(missing...)
}

// findings reads the source of doctor: for each call of broken and warn, what
// its line looks like.
func findings(dir string) (map[string]*regexp.Regexp, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]*regexp.Regexp)
	set := token.NewFileSet()
	for _, name := range files {
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			return nil, err
		}
		constants := make(map[string]string)
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Names) == len(spec.Values) {
				for i, name := range spec.Names {
					if text, ok := literal(spec.Values[i]); ok {
						constants[name.Name] = text
					}
				}
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || method.Sel.Name != "broken" && method.Sel.Name != "warn" || len(call.Args) < 2 {
				return true
			}
			format, ok := literal(call.Args[1])
			if !ok {
				err = fmt.Errorf("%s: the words of a finding are not in one piece", set.Position(call.Pos()))
				return true
			}
			word := map[string]string{"broken": "broken", "warn": "warning"}[method.Sel.Name]
			all[filepath.Base(set.Position(call.Pos()).String())] =
				regexp.MustCompile("^" + word + ": " + words(format, call.Args[2:], constants) + mends(call.Args[0]) + "$")
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// words is what a format looks like when it is filled in, with constants as
// they are and anything else as anything.
func words(format string, args []ast.Expr, constants map[string]string) string {
	verb := regexp.MustCompile(`%[sdv]`)
	var b strings.Builder
	for i := 0; ; i++ {
		at := verb.FindStringIndex(format)
		if at == nil {
			return b.String() + regexp.QuoteMeta(format)
		}
		b.WriteString(regexp.QuoteMeta(format[:at[0]]))
		format = format[at[1]:]
		value := ".+"
		if i < len(args) {
			if name, ok := args[i].(*ast.Ident); ok && constants[name.Name] != "" {
				value = regexp.QuoteMeta(constants[name.Name])
			}
		}
		b.WriteString(value)
	}
}

// mends is what a line says after its words: all literals of the command, or
// nothing if it has none at all.
func mends(command ast.Expr) string {
	if text, ok := literal(command); ok && text == "" {
		return ""
	}
	pattern := ".*"
	ast.Inspect(command, func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if text, ok := literal(e); ok {
				pattern += regexp.QuoteMeta(text) + ".*"
			}
		}
		return true
	})
	if pattern == ".*" {
		return "(; mend it: .+)?" // a variable, or what nobody knows on some systems
	}
	return "; mend it: " + pattern
}
