;; RUN: rewrite %s -o %t
(component
  (core type $T (module (export "memory" (memory 1))))
  (import "libc" (core module $Libc (type $T)))
  (core instance $l (instantiate $Libc))
  (core module $M (import "libc" "memory" (memory 1)) (func (export "size") (result i32) (i32.load (i32.const 0))))
  (core instance (instantiate $M (with "libc" (instance $l)))))
