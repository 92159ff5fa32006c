from django.urls import path

from portal.demo import views

urlpatterns = [
    path("demo/", views.demo, name="demo"),
]
