;; RUN: run --json --timeout 50ms %s
(module (func (export "_start") (loop $forever (br $forever))))
