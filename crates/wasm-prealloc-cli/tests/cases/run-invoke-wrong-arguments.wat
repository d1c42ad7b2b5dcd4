;; RUN: run -q --pages 16 --invoke half %s 1 2
(module (memory 16 16)
  (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2))))
