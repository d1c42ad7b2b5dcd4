;; RUN: run -q --pages 16 --timeout 3600 --invoke sum %s 1000000
(module
  (memory 16 16)
  (func (export "sum") (param $n i64) (result i64)
    (local $sum i64)
    (loop $next
      (local.set $sum (i64.add (local.get $sum) (local.get $n)))
      (local.set $n (i64.sub (local.get $n) (i64.const 1)))
      (br_if $next (i64.ne (local.get $n) (i64.const 0))))
    (local.get $sum)))
