;; RUN: run --timeout 1h %s
(module (func (export "_start")))
