using System.Collections.Concurrent;
using FramePin.Server.Configuration;
using FramePin.Server.Mapping;

namespace FramePin.Server.Machines;

/// <summary>A thing of a machine under its name. Two entries are the same only if they are one object.</summary>
/// <param name="id">Last segment of the name.</param>
/// <param name="name">Full name.</param>
/// <param name="thing">Number of the thing in its machine.</param>
internal sealed class Named<T>(string id, string name, T thing)
    where T : struct
{
    public string Id { get; } = id;

    public string Name { get; } = name;

    public T Thing { get; } = thing;
}

/// <summary>The names of one kind of thing in a machine: its address spaces, its files or its devices.</summary>
/// <param name="machine">Last segment of the machine's name.</param>
/// <param name="kind">The collection's name, the reason of a refusal, and the limit.</param>
/// <param name="naming">Serialises the choice of names within the machine.</param>
/// <param name="limits">Length of a name.</param>
/// <remarks>Any thread.</remarks>
internal sealed class NameTable<T>(string machine, NamedKind kind, NameCounter naming, DaemonLimits limits)
    where T : struct
{
    private readonly ConcurrentDictionary<string, Named<T>> _byId = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<T, Named<T>> _byThing = new();

    /// <summary>Ids that were chosen and whose things are being made. Under the counter's gate.</summary>
    private readonly HashSet<string> _reserved = new(StringComparer.Ordinal);

    /// <summary>The things, in no order.</summary>
    public IEnumerable<Named<T>> All => _byId.Values;

    /// <summary>The thing under an id. NOT_FOUND when there is none.</summary>
    public Named<T> Get(string id) =>
        _byId.TryGetValue(id, out var named) ? named : throw Refusals.NotFound(kind.Reason, NameOf(id));

    /// <summary>
    /// The thing that a request's field names. NOT_FOUND when there is none, INVALID_ARGUMENT for a thing of another
    /// machine.
    /// </summary>
    /// <param name="name">Full name.</param>
    /// <param name="field">The field.</param>
    public Named<T> Get(string name, string field)
    {
        var (owner, id) = Names.ChildIds(name, kind.Collection, field);
        return owner == machine ? Get(id) : throw Refusals.Bad(field, "belongs to another machine");
    }

    /// <summary>A thing by its number; null when its name was taken away.</summary>
    public Named<T>? Find(T thing) => _byThing.GetValueOrDefault(thing);

    /// <summary>
    /// Chooses the name of a thing that the caller makes next. An empty <paramref name="wantedId"/> lets the machine
    /// choose: such names count up and are never used twice.
    /// </summary>
    /// <param name="wantedId">Last segment of the name, or empty.</param>
    /// <remarks>RESOURCE_EXHAUSTED at the limit; ALREADY_EXISTS for a name in use.</remarks>
    public NameReservation<T> Reserve(string wantedId)
    {
        lock (naming.Gate)
        {
            var count = _byId.Count + _reserved.Count;
            if (count >= kind.Max) throw Refusals.Limit(kind.Limit, (ulong)kind.Max, (ulong)count + 1);
            var id = wantedId;
            if (id.Length == 0)
            {
                do id = $"{kind.Prefix}{naming.Next()}";
                while (IsTaken(id));
            }
            else
            {
                Names.CheckId(id, limits, "id");
                if (IsTaken(id)) throw Refusals.Exists(NameOf(id));
            }

            _reserved.Add(id);
            return new NameReservation<T>(this, id);
        }
    }

    /// <summary>Takes a thing's name away. False: another thread did, or the name means another thing by now.</summary>
    public bool Remove(Named<T> named)
    {
        lock (naming.Gate)
        {
            if (!_byId.TryRemove(new KeyValuePair<string, Named<T>>(named.Id, named))) return false;
            _byThing.TryRemove(named.Thing, out _);
            return true;
        }
    }

    /// <summary>The thing is made.</summary>
    internal Named<T> Fill(string id, T thing)
    {
        var named = new Named<T>(id, NameOf(id), thing);
        lock (naming.Gate)
        {
            _byThing[thing] = named;
            _byId[id] = named;
            _reserved.Remove(id);
        }

        return named;
    }

    /// <summary>The thing could not be made.</summary>
    internal void Free(string id)
    {
        lock (naming.Gate) _reserved.Remove(id);
    }

    private bool IsTaken(string id) => _byId.ContainsKey(id) || _reserved.Contains(id);

    private string NameOf(string id) => Names.Child(machine, kind.Collection, id);
}

/// <summary>A name that nobody else can choose. Disposing it frees the name, unless the thing was made.</summary>
/// <param name="table">The table.</param>
/// <param name="id">The id that was chosen.</param>
internal sealed class NameReservation<T>(NameTable<T> table, string id) : IDisposable
    where T : struct
{
    private bool _isFilled;

    /// <summary>Last segment of the name.</summary>
    public string Id => id;

    /// <summary>Gives the name to the thing.</summary>
    public Named<T> Fill(T thing)
    {
        _isFilled = true;
        return table.Fill(id, thing);
    }

    public void Dispose()
    {
        if (!_isFilled) table.Free(id);
    }
}

/// <summary>The kind of the things in a table of names.</summary>
/// <param name="Collection">Third segment of the names.</param>
/// <param name="Reason">Name of the kind in a refusal's reason, such as ADDRESS_SPACE.</param>
/// <param name="Prefix">Beginning of the names that the machine chooses.</param>
/// <param name="Limit">Name of the limit.</param>
/// <param name="Max">Most things in the table.</param>
internal sealed record NamedKind(string Collection, string Reason, string Prefix, string Limit, int Max);

/// <summary>The numbers in the names that a machine chooses. One counter serves all tables of the machine.</summary>
internal sealed class NameCounter
{
    private int _last;

    /// <summary>Held while a name is chosen.</summary>
    public Lock Gate { get; } = new();

    /// <summary>The next number, from 1 on. Under <see cref="Gate"/>.</summary>
    public int Next() => ++_last;
}
