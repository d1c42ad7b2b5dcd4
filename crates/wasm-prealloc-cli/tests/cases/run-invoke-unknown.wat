;; RUN: run -q --pages 16 --invoke third %s
(module (memory 16 16) (func (export "half")) (func (export "quarter")))
