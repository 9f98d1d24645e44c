"""The commands, one module a study: each reads options, calls one public function, prints what it returns."""
