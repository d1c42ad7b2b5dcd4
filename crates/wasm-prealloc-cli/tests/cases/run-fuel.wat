;; RUN: run --json --fuel 1000 %s
(module (func (export "_start") (loop $forever (br $forever))))
