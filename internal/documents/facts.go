package documents

// Facts are what a person may want to know of a running service.
type Facts struct {
	Mounted   bool
	Documents int
	Apps      []string       // that have documents or run
	Open      map[string]int // open files of each app, "" is the host
}

// Facts looks at everything once; it may take a moment where there is much.
func (s *Service) Facts() Facts {
	f := Facts{Documents: len(s.List("")), Apps: s.Apps()}
	s.mu.RLock()
	m := s.mounted
	s.mu.RUnlock()
	if m == nil {
		return f
	}
	select {
	case <-m.view.Done():
		return f
	default:
	}
	f.Mounted = true
	f.Open = m.view.Open()
	return f
}
