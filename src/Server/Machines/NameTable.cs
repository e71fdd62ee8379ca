using System.Collections.Concurrent;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;

namespace FramePin.Server.Machines;

/// <summary>The names of one kind of thing in a machine: its address spaces, its files or its devices.</summary>
/// <param name="machine">Last segment of the machine's name.</param>
/// <param name="kind">The collection's name, the reason of a refusal, and the limit.</param>
/// <param name="naming">Serialises the choice of names within the machine.</param>
/// <param name="limits">Length of a name.</param>
/// <remarks>Any thread.</remarks>
internal sealed class NameTable<T>(string machine, NamedKind kind, NameCounter naming, DaemonLimits limits)
    where T : class
{
    private readonly ConcurrentDictionary<string, T> _things = new(StringComparer.Ordinal);

    /// <summary>The things with their ids, in no order.</summary>
    public IEnumerable<KeyValuePair<string, T>> All => _things;

    /// <summary>The thing under an id. NOT_FOUND when there is none.</summary>
    public T Get(string id) =>
        _things.TryGetValue(id, out var thing) ? thing : throw Refusals.NotFound(kind.Reason, NameOf(id));

    /// <summary>Full name of an id in this table.</summary>
    public string NameOf(string id) => Names.Child(machine, kind.Collection, id);

    /// <summary>
    /// Makes a thing under a name. An empty <paramref name="wantedId"/> lets the machine choose: such names count up
    /// and are never used twice.
    /// </summary>
    /// <param name="wantedId">Last segment of the name, or empty.</param>
    /// <param name="make">Makes the thing under the id; null means that memory ran out.</param>
    /// <remarks>RESOURCE_EXHAUSTED at the limit and without memory; ALREADY_EXISTS for a name in use.</remarks>
    public (string Id, T Thing) Add(string wantedId, Func<string, T?> make)
    {
        lock (naming.Gate)
        {
            if (_things.Count >= kind.Max)
                throw Refusals.Limit(kind.Limit, (ulong)kind.Max, (ulong)_things.Count + 1);
            var id = wantedId;
            if (id.Length == 0)
            {
                do id = $"{kind.Prefix}{naming.Next()}";
                while (_things.ContainsKey(id));
            }
            else
            {
                Names.CheckId(id, limits, "id");
                if (_things.ContainsKey(id)) throw Refusals.Exists(NameOf(id));
            }

            var made = make(id) ?? throw Refusals.Errno(kind.Collection, Core.Abi.Errno.ENOMEM);
            _things[id] = made;
            return (id, made);
        }
    }

    /// <summary>Takes a thing's name away. False: another thread did, or the name means another thing by now.</summary>
    public bool Remove(string id, T thing) => _things.TryRemove(new KeyValuePair<string, T>(id, thing));
}

/// <summary>What a table of names holds.</summary>
/// <param name="Collection">Third segment of the names.</param>
/// <param name="Reason">What a refusal calls the kind, such as ADDRESS_SPACE.</param>
/// <param name="Prefix">What the names begin with that the machine chooses.</param>
/// <param name="Limit">Name of the limit.</param>
/// <param name="Max">Most things in the table.</param>
internal sealed record NamedKind(string Collection, string Reason, string Prefix, string Limit, int Max);

/// <summary>The numbers in the names that a machine chooses. One counter serves all tables of the machine.</summary>
internal sealed class NameCounter
{
    private int _last;

    /// <summary>Held while a name is chosen and its thing is made.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The next number, from 1 on. Under <see cref="Gate"/>.</summary>
    public int Next() => ++_last;
}
