"""Makes a dictionary like src/chatkeep/drivers/chat.zdict, from sentences and records such as chats are full of.

    python tools/train_dictionary.py new.zdict

The one that is shipped is part of the SQLite file format: it must never change. A better one would get a new tag in
drivers/packing.py, beside the old one.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import zstandard

SAMPLES = 4000
DICTIONARY_BYTES = 2048

SENTENCES = """\
Hello, how can I help you today?
Hi! What would you like to order?
Good morning, I have a question about my order.
Can I change the delivery address?
Your order has been confirmed and will arrive in about 40 minutes.
Thank you very much for your help!
You're welcome. Is there anything else I can do for you?
I would like to cancel my appointment for tomorrow.
Please send me the invoice by email.
What time do you open on Sunday?
We are open from 9 am to 6 pm, Monday to Saturday.
I don't have my order number with me.
Could you please tell me your phone number and the date of birth?
The payment did not go through, please try another card.
Do you have this in a smaller size?
Unfortunately that is out of stock right now, but we can let you know when it is available again.
Two of them, please, one without cheese and one with extra sauce.
How much is it with shipping?
The total is 45.50 including tax.
I will pay in cash when it gets here.
Let me check that for you. One moment please.
It should be there by now, I am still waiting.
I'm sorry to hear that. Let me see what happened.
Which branch is closest to you?
Please choose one of the following options: 1. delivery 2. pick up 3. eat in
I never received the confirmation message.
Can you recommend a good teacher for math?
There are three tutors available this week, would you like to see their profiles?
Show me other tutors please.
Which subject do you need help with, and what level?
My daughter is in the eighth grade and needs help with fractions.
Great, your lesson is booked for Wednesday at 4:30 pm.
Please fill in the form below so that we can finish your booking.
What services do you offer?
We offer manicures, pedicures, haircuts, colouring and massages.
Is there a free slot on Saturday afternoon?
The earliest we have is at 11:15, does that work for you?
Yes that works, thanks.
No, I need something later in the day.
Okay, I've added it to your cart. You now have 3 items.
Remove the second one and add a bottle of water instead.
Your cart is empty.
Would you like to see the menu?
Is the soup vegetarian? And does it have nuts in it?
All prices are in euros.
Please enter your full address with the postal code.
I live on the third floor, the bell is broken so please call me when you are outside.
The driver has picked up your order and is on the way.
It was cold when it arrived and half of it was missing.
We are very sorry about this. We have refunded the full amount, which takes three to five working days.
I want to talk to a person, not a bot.
Of course, I'll connect you with a colleague. Please wait a moment.
An agent has joined the conversation.
How long does it usually take?
It depends on where you live, but normally between two and four days.
Can I get a discount if I order ten or more?
For orders over one hundred pieces we can offer you ten percent off.
I'd like to order in bulk for our company, about 250 shirts in different sizes.
Please upload the list as a file, or type the quantities one by one.
What is your return policy?
You can return anything within thirty days as long as it hasn't been used.
My password doesn't work any more.
I have sent you a link to set a new one. It is valid for one hour.
Where can I find my tracking number?
You will find it in the email we sent you when the package left our warehouse.
Is my account still active? I haven't used it since last year.
Sure, what is the name on the reservation?
It's under Martin, for four people at eight o'clock.
Could we sit outside if the weather is nice?
I'll make a note of it, but we can't promise anything.
See you on Friday then!
Have a nice day.
Thanks, bye.
Could you repeat that? I didn't understand.
Sorry, I didn't get that. Please type help to see what I can do.
I forgot to mention that I am allergic to peanuts.
No problem, I have told the kitchen.
How do I use this voucher code?
Enter it in the last step before you pay.
Happy birthday! Here is a little gift from us.
Please rate our service from 1 to 5.
5, everything was perfect as always.
I need a receipt with the company's name on it.
We have received your message and will get back to you as soon as possible.
Did you mean the red one or the blue one?
The blue one, but only if it has long sleeves.
Let's do that. What do you need from me?
Just your signature and a copy of your ID.
Your request number is 48213. Please keep it for your records.
I've been waiting for more than an hour and nobody has called me back.
That's not what I asked for!
Can you deliver to my office instead? It's just around the corner from the old place.
Yes, for an additional fee of two dollars.
What about tomorrow morning, before ten?
We could also meet online if that is easier for you.
I think there was a mistake on my bill, I was charged twice.
You are right, I can see it here. We will correct it today.
Hola, quisiera hacer un pedido para llevar.
Gracias, su pedido estara listo en veinte minutos.
Guten Tag, ich moechte meinen Termin verschieben.
Kein Problem, wann passt es Ihnen besser?
Bonjour, est-ce que vous livrez aussi le dimanche ?
Oui, de midi a vingt-deux heures.
Oi, tudo bem? Queria saber o horario de funcionamento.
Funcionamos todos os dias das 10h as 22h.
""".splitlines()

NAMES = [
    "Large",
    "Pizza",
    "Cut",
    "Gel",
    "Water",
    "Salad",
    "Colour",
    "Basic",
    "Lesson",
    "Chicken",
    "Soup",
    "Box",
    "Shirt",
    "Blue",
    "Red",
]


def samples() -> list[bytes]:
    """Entries and records as `codec` writes them, from a seeded choice."""
    chosen = random.Random(7)

    def said() -> str:
        return " ".join(chosen.sample(SENTENCES, chosen.choice((1, 1, 1, 2, 2, 3))))

    def checksum() -> str:
        return f"{chosen.getrandbits(32):08x}"

    def entry(at: int) -> str:
        kind = chosen.random()
        if kind < 0.47:
            return f'["{checksum()}",{at},{json.dumps(said())}]'
        if kind < 0.95:
            return f'["{checksum()}",{at},{json.dumps(said())},{chosen.randrange(1, 400)}]'
        parts = [
            {"type": "image", "url": f"https://cdn.example.com/{checksum()}.jpg"},
            {"type": "text", "text": said()},
        ]
        return f'["{checksum()}",{at},{json.dumps(parts, separators=(",", ":"))},0,0,{{"channel":"whatsapp"}}]'

    def record(at: int) -> str:
        cart = [
            {
                "id": f"{chosen.choice('ABKPX')}-{chosen.randrange(999)}",
                "name": " ".join(chosen.sample(NAMES, 2)),
                "quantity": chosen.randrange(1, 9),
                "price": chosen.randrange(100, 9900),
            }
            for _ in range(chosen.randrange(9))
        ]
        address = {"street": f"{chosen.randrange(300)} Main Street", "city": "London", "phone": "+44 20 7946"}
        state = chosen.choice(
            [
                {
                    "stage": chosen.choice(["menu", "cart", "confirm"]),
                    "cart": cart,
                    "address": address,
                    "welcomed": True,
                },
                {"items": cart, "notes": said(), "status": "open", "payment": None},
                {
                    "booking": {"service": "haircut", "date": f"2026-03-{chosen.randrange(10, 29)}", "time": "14:30"},
                    "step": 2,
                },
            ]
        )
        rest = f'"session":1,"since":1,"cursor":{chosen.randrange(400)},"active_at":{at / 1000}'
        return f'{{"crc":"{checksum()}","format":1,"state":{json.dumps(state, separators=(",", ":"))},{rest}}}'

    times = [1_763_600_000_000 + chosen.randrange(10**11) for _ in range(SAMPLES)]
    return [(entry(at) if chosen.random() < 0.85 else record(at)).encode() for at in times]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(zstandard.train_dictionary(DICTIONARY_BYTES, samples(), level=3).as_bytes())
