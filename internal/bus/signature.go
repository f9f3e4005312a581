package bus

import (
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// checkSignature reports why sig is not a signature of zero or more complete
// types. godbus judges nesting and length; it lets empty structs and
// containers as dictionary keys through, which the D-Bus specification
// ("Valid Signatures") does not.
func checkSignature(sig string) error {
	if _, err := dbus.ParseSignature(sig); err != nil {
		return err
	}
	if strings.Contains(sig, "()") {
		return fmt.Errorf("empty struct in signature %q", sig)
	}
	for i := 0; i+1 < len(sig); i++ {
		if sig[i] == '{' && (i == 0 || sig[i-1] != 'a' || !isBasic(sig[i+1])) {
			return fmt.Errorf("bad dictionary key in signature %q", sig)
		}
	}
	return nil
}

// checkSingle is checkSignature for exactly one complete type.
func checkSingle(sig string) error {
	if sig == "" {
		return fmt.Errorf("empty signature")
	}
	if err := checkSignature(sig); err != nil {
		return err
	}
	if _, rest := nextType(sig); rest != "" {
		return fmt.Errorf("signature %q has more than one type", sig)
	}
	return nil
}

func isBasic(c byte) bool { return strings.IndexByte("ybnqiuxtdsogh", c) >= 0 }

// nextType splits a valid, non-empty signature after its first complete type.
func nextType(sig string) (first, rest string) {
	i := 0
	for sig[i] == 'a' {
		i++
	}
	depth := 0
	for ; ; i++ {
		switch sig[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		}
		if depth == 0 {
			return sig[:i+1], sig[i+1:]
		}
	}
}

// alignment is the alignment in bytes of a type that begins with c (D-Bus
// specification, "Summary of D-Bus marshalling").
func alignment(c byte) int {
	switch c {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 's', 'o', 'a', 'h':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1 // y g v
}

// fixedSize is the size in bytes of the fixed-size basic type c, 0 for others.
func fixedSize(c byte) int {
	switch c {
	case 'y':
		return 1
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h':
		return 4
	case 'x', 't', 'd':
		return 8
	}
	return 0
}

// validPath reports whether s is an object path.
func validPath(s string) bool { return dbus.ObjectPath(s).IsValid() }

// validName reports whether s is a name of dotted elements as interfaces,
// errors and bus names are (D-Bus specification, "Valid Names"). Bus names may
// contain "-", and unique ones begin with ":" and have elements that begin
// with a digit.
func validName(s string, busName bool) bool {
	if len(s) == 0 || len(s) > 255 {
		return false
	}
	unique := false
	if busName && s[0] == ':' {
		unique = true
		s = s[1:]
	}
	elements := 0
	for e := range strings.SplitSeq(s, ".") {
		if e == "" || !unique && e[0] >= '0' && e[0] <= '9' {
			return false
		}
		for i := 0; i < len(e); i++ {
			if !isWord(e[i]) && !(busName && e[i] == '-') {
				return false
			}
		}
		elements++
	}
	return elements >= 2
}

// validMember reports whether s is the name of a method or signal.
func validMember(s string) bool {
	if len(s) == 0 || len(s) > 255 || s[0] >= '0' && s[0] <= '9' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isWord(s[i]) {
			return false
		}
	}
	return true
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}
