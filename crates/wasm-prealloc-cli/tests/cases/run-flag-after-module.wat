;; RUN: run -q --pages 16 %s --invoke half 3
(module (memory 16 16)
  (func (export "half") (param f64) (result f64) (f64.div (local.get 0) (f64.const 2))))
