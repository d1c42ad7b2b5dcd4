;; RUN: rewrite %s -o %t
;; Another component could instantiate the core module and grow its memory.
(component
  (core module $m (memory (export "memory") 1))
  (export "m" (core module $m)))
