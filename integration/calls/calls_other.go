//go:build !amd64 && !386

package main

func own() []try { return nil }

func foreign() {}
