from keras_l2l import rules
