"""Pure formats: what is on the wire, in an object and in a reply. No clock, no socket, no disk."""
