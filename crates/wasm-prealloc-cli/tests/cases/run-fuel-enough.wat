;; RUN: run -q --pages 16 --fuel 1000 --timeout 3600 --invoke one %s
(module (memory 16 16) (func (export "one") (result i32) (i32.const 1)))
