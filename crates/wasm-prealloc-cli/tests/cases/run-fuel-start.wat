;; RUN: run -q --pages 16 --fuel 1000 %s
;; The function that starts a module counts too.
(module
  (memory 16 16)
  (func $start (loop $forever (br $forever)))
  (start $start)
  (func (export "_start")))
