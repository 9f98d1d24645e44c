"""The commands, one module a topic: each reads options, calls one public function, prints what it returns."""
