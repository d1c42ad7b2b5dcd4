;; RUN: run --quiet --invoke second %s 7
(module
  (type $pair (struct (field i32) (field i32)))
  (func (export "second") (param i32) (result i32)
    (struct.get $pair 1 (struct.new $pair (i32.const 0) (local.get 0)))))
