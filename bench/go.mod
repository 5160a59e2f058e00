module github.com/pgherd/pgherd/bench

go 1.26

require github.com/pgherd/pgherd v0.0.0

replace github.com/pgherd/pgherd => ../
